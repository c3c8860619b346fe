"""Large requests of each kind: they are refused, and leave no memory behind in the HTTP process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openai_wire import ask, chat
from server_memory import settled
from servers import ServerProcess, fake

#: What a process may keep of all of them.
SPARE_BYTES = 30_000_000
USER = {"role": "user", "content": "a"}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "many replies": ("/v1/chat/completions", {"messages": [{**USER, "content": "a " * 12_000_000}], "n": 128}),
    "many messages": ("/v1/chat/completions", {"messages": [USER] * 300_000}),
    "many items": ("/v1/responses", {"input": [USER] * 200_000}),
    "special names": ("/v1/chat/completions", {"messages": [{**USER, "content": "<end>" * 2_000_000}]}),
    "empty lists": ("/api/chat", {"model": "fake", "messages": [USER], "format": {"a": [[]] * 5_000_000}}),
    "echoes": ("/v1/completions", {"prompt": [" a" * 20_000] * 64, "echo": True, "logprobs": 20, "max_tokens": 0}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with fake("--ctx", "30000") as started:
        ask(started.port, "POST", "/v1/chat/completions", chat("<say>ok</say>"))
        yield started


def resident(server: ServerProcess) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.http}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("name", REQUESTS)
def test_it_is_refused_and_its_memory_returns(server: ServerProcess, name: str) -> None:
    path, body = REQUESTS[name]
    before, process = resident(server), server.http
    reply = ask(server.port, "POST", path, json.dumps(body, separators=(",", ":")).encode())
    assert reply.status == 400, reply.body[:200]
    assert settled(lambda: resident(server), before + SPARE_BYTES) <= before + SPARE_BYTES
    assert server.http == process, "the HTTP process has been replaced"
    assert ask(server.port, "POST", "/v1/chat/completions", chat("<say>ok</say>")).status == 200
