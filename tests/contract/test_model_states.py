"""Which models are loaded, and orders to load and unload: llama-server's routes, OpenAI's list, Ollama's ``ps``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from openai_wire import Reply, ask, chat
from servers import ServerProcess, fake, wait_for

CONFIG = """
[models.first]
[models.other]
[models.broken]
[models.always]
pinned = true
[models.asked]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The first and the pinned model are loaded with the server, the others on demand, each in half a second."""
    file: Path = tmp_path_factory.mktemp("states") / "config.toml"
    file.write_text(CONFIG, encoding="utf-8")
    script = {"fake_load_seconds": "0.5", "fake_load_fails": "broken=the file is cut"}
    with fake("--config", str(file), step=0.0, **script) as running:
        yield running


def order(server: ServerProcess, what: str, model: str | None) -> Reply:
    return ask(server.port, "POST", f"/models/{what}", {} if model is None else {"model": model})


def status(server: ServerProcess, model: str) -> dict[str, Any]:
    """The model's status in its own object, which the list has as well."""
    found: dict[str, Any] = ask(server.port, "GET", f"/v1/models/{model}").json()["status"]
    listed = {each["id"]: each["status"] for each in ask(server.port, "GET", "/v1/models").json()["data"]}
    return found if listed[model] == found else status(server, model)


def in_memory(server: ServerProcess) -> set[str]:
    """The names that Ollama's clients list; a model that is stopping is among them."""
    return {row["name"] for row in ask(server.port, "GET", "/api/ps").json()["models"]}


def test_a_model_is_loaded_and_unloaded_by_order(server: ServerProcess) -> None:
    assert status(server, "other") == {"value": "unloaded"}
    reply = order(server, "load", "other")
    assert (reply.status, reply.json()) == (200, {"success": True})
    wait_for("the load", lambda: status(server, "other") == {"value": "loaded"})
    assert order(server, "unload", "other").json() == {"success": True}
    wait_for("the unload", lambda: status(server, "other") == {"value": "unloaded"})


def test_a_request_loads_a_model_and_keep_alive_tells_when_it_goes(server: ServerProcess) -> None:
    body = {"model": "asked", "messages": [{"role": "user", "content": "<say>a</say>"}], "keep_alive": "1h"}
    assert ask(server.port, "POST", "/api/chat", {**body, "stream": False}).status == 200
    rows = {row["name"]: row for row in ask(server.port, "GET", "/api/ps").json()["models"]}
    left = datetime.fromisoformat(rows["asked:latest"]["expires_at"]) - datetime.now(UTC)
    assert 3000 < left.total_seconds() <= 3600
    kept = datetime.fromisoformat(rows["always:latest"]["expires_at"]) - datetime.now(UTC)
    assert kept.days > 365
    empty = {"model": "asked", "keep_alive": 0, "stream": False}
    assert ask(server.port, "POST", "/api/generate", empty).json()["done_reason"] == "unload"
    wait_for("the unload", lambda: status(server, "asked") == {"value": "unloaded"})
    wait_for("the end of its engine", lambda: "asked:latest" not in in_memory(server))


def test_a_model_that_cannot_be_loaded_says_why(server: ServerProcess) -> None:
    assert order(server, "load", "broken").status == 200
    wait_for("the failure", lambda: status(server, "broken").get("failed") is True)
    found = status(server, "broken")
    assert found["value"] == "unloaded"
    assert "the file is cut" in found["reason"]
    assert ask(server.port, "POST", "/v1/chat/completions", chat("<say>a</say>", model="first")).status == 200


@pytest.mark.parametrize(
    ("what", "model", "code", "says"),
    [
        ("load", "first", 400, "loaded already"),
        ("unload", "other", 400, "isn't loaded"),
        ("unload", "always", 400, "pinned"),
        ("load", "nothing", 404, "does not exist"),
        ("unload", "nothing", 404, "does not exist"),
        ("load", None, 400, "is missing"),
        ("unload", "", 400, "is missing"),
    ],
)
def test_an_order_that_cannot_be_followed_names_the_reason(
    server: ServerProcess, what: str, model: str | None, code: int, says: str
) -> None:
    wait_for("a quiet model", lambda: status(server, "other") == {"value": "unloaded"})
    reply = order(server, what, model)
    error = reply.json()["error"]
    assert (reply.status, error["code"], error["param"]) == (code, code, "model")
    assert says in error["message"]


def test_the_only_model_is_not_unloaded() -> None:
    with fake() as alone:
        reply = order(alone, "unload", "fake")
        assert reply.status == 400
        assert "only model" in reply.json()["error"]["message"]
        assert status(alone, "fake") == {"value": "loaded"}
