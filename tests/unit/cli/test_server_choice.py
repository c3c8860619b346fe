"""Which running server a word means."""

from __future__ import annotations

import pytest

from tailrace.cli import server_choice
from tailrace.errors import ConfigurationError
from tailrace.machine.running_servers import ServerState

FIRST = ServerState(models=("small", "shared"), loaded=(), port=8000, supervisor=100, http=None)
SECOND = ServerState(models=("large", "shared"), loaded=(), port=8001, supervisor=200, http=None)


@pytest.mark.parametrize(("word", "chosen"), [("8000", FIRST), ("200", SECOND), ("small", FIRST), ("large", SECOND)])
def test_a_port_a_process_or_a_model_names_a_server(word: str, chosen: ServerState) -> None:
    assert server_choice.choose(word, [FIRST, SECOND]) is chosen


def test_an_only_server_needs_no_name() -> None:
    assert server_choice.choose(None, [FIRST]) is FIRST


@pytest.mark.parametrize(
    ("word", "servers", "says"),
    [
        (None, [], "no server of yours runs; start one with: tailrace serve --detach"),
        ("small", [], "no server of yours runs"),
        (None, [FIRST, SECOND], "port 8000 (process 100, small, shared); port 8001 (process 200, large, shared)"),
        ("shared", [FIRST, SECOND], "'shared' names several servers: give the port or process id"),
        ("80", [FIRST], "no server of yours is '80'; there are port 8000"),
    ],
)
def test_what_can_t_be_chosen_is_said(word: str | None, servers: list[ServerState], says: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        server_choice.choose(word, servers)
    assert says in str(error.value)


def test_a_shell_completes_names_ports_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_choice, "find_servers", lambda: [FIRST, SECOND])
    assert server_choice.complete("80") == ["8000", "8001"]
    assert server_choice.complete("s") == ["shared", "small"]
