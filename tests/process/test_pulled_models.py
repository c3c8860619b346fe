"""A model that a client pulls answers at once, also by another HTTP process, where all models are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_pulls import pull_environment
from ollama_wire import error, lines
from openai_wire import ask
from pull_servers import Content, pull_servers
from servers import replace_http_process, serving
from tailrace.models.store import Store
from tailrace.settings import STARTER_MODEL


@pytest.mark.parametrize("reference", ["tiny:1b", "hf.co/org/repo:Q4_1"])
def test_a_pulled_model_is_served_at_once(tmp_path: Path, reference: str) -> None:
    starter = Store().find(STARTER_MODEL)
    assert starter is not None
    (tmp_path / "models" / "one").mkdir(parents=True)
    (tmp_path / "models" / "one" / "one.gguf").symlink_to(starter.path)
    with pull_servers() as (hub, registry, _):
        weights = Content(starter.path.read_bytes())
        registry.add("model", weights)
        registry.add("system", b"Answer in one word.")
        hub.add("m-Q4_1.gguf", weights)
        environment = pull_environment(tmp_path, hub, registry) | {"OLLAMA_MODELS": str(tmp_path / "none")}
        arguments = ("--all-models", "--manage-models", "--ctx", "256", "--threads", "1")
        with serving(*arguments, environment=environment) as server:
            request = {"model": reference, "stream": False, "messages": [{"role": "user", "content": "hi"}]}
            request["options"] = {"num_predict": 2}
            reply = ask(server.port, "POST", "/api/chat", request)
            assert (reply.status, "not found" in error(reply)) == (404, True)
            assert lines(ask(server.port, "POST", "/api/pull", {"model": reference}))[-1] == {"status": "success"}
            replace_http_process(server)
            reply = ask(server.port, "POST", "/api/chat", request)
            assert (reply.status, reply.json()["eval_count"]) == (200, 2)
            names = [row["id"] for row in ask(server.port, "GET", "/v1/models").json()["data"]]
            assert len(names) == 2
            # Another pull of it changes nothing.
            assert lines(ask(server.port, "POST", "/api/pull", {"model": reference}))[-1] == {"status": "success"}
            assert [row["id"] for row in ask(server.port, "GET", "/v1/models").json()["data"]] == names
