"""A client deletes a model that is served beside others: its engine ends, its file goes, and the others stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openai_wire import Reply, ask, chat
from servers import ServerProcess, replace_http_process, serving, wait_for
from tailrace.models.model_reference import locate_model


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three models, which are links to one file."""
    folder = tmp_path_factory.mktemp("store")
    source = locate_model("smollm2-135m").path
    for name in ("first", "second", "third"):
        (folder / name).mkdir()
        (folder / name / f"{name}.gguf").symlink_to(source)
    return folder


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[ServerProcess]:
    environment = {"TAILRACE_MODELS": str(store)}
    with serving("first", "second", "third", "--ctx", "512", "--manage-models", environment=environment) as running:
        yield running


def delete(server: ServerProcess, name: str) -> Reply:
    return ask(server.port, "DELETE", "/api/delete", {"model": name})


def names(server: ServerProcess) -> set[str]:
    return {model["id"] for model in ask(server.port, "GET", "/v1/models").json()["data"]}


def answers(server: ServerProcess, name: str) -> int:
    return ask(server.port, "POST", "/v1/chat/completions", chat("Hi", model=name, max_tokens=2)).status


def test_a_loaded_model_is_deleted_and_the_others_stay(server: ServerProcess, store: Path) -> None:
    assert answers(server, "second") == 200
    assert delete(server, "Second:latest").status == 200
    assert not (store / "second" / "second.gguf").exists()
    assert names(server) == {"first", "third"}
    assert answers(server, "second") == 404
    wait_for("its engine's end", lambda: b'model_name="second"' not in ask(server.port, "GET", "/metrics").body)
    assert answers(server, "first") == 200


def test_a_model_that_is_not_loaded_is_deleted(server: ServerProcess, store: Path) -> None:
    assert delete(server, "third").status == 200
    assert not (store / "third").exists()
    assert "third" not in names(server)


def test_the_next_http_process_serves_no_deleted_model(server: ServerProcess) -> None:
    replace_http_process(server)
    assert names(server) == {"first"}
    assert ask(server.port, "GET", "/health").json()["status"] == "ok"


def test_the_first_model_is_not_deleted(server: ServerProcess, store: Path) -> None:
    assert delete(server, "first").status == 403
    assert (store / "first" / "first.gguf").exists()
    assert answers(server, "first") == 200
