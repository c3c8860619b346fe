"""Integers that clients write as floats: whole values in every dialect, and any in Ollama's options."""

from __future__ import annotations

from typing import Any

import pytest

from openai_wire import ask
from servers import ServerProcess

USER = [{"role": "user", "content": "<say>uvwxyz</say>"}]
TEXT = "<say>uvwxyz</say>"

#: A path, a body, and where in it the limit of tokens stands.
LIMITED: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"messages": USER}, "max_tokens"),
    ("/v1/chat/completions", {"messages": USER}, "max_completion_tokens"),
    ("/v1/completions", {"prompt": TEXT}, "max_tokens"),
    ("/v1/responses", {"input": TEXT}, "max_output_tokens"),
    ("/v1/messages", {"messages": USER, "model": "fake"}, "max_tokens"),
]


@pytest.mark.parametrize(("path", "body", "field"), LIMITED)
def test_a_whole_float_is_an_integer(scripted: ServerProcess, path: str, body: dict[str, Any], field: str) -> None:
    reply = ask(scripted.port, "POST", path, {**body, field: 2.0, "top_k": 40.0, "temperature": 0.5})
    assert reply.status == 200, reply.body
    assert b"uv" in reply.body
    assert b"uvw" not in reply.body
    reply = ask(scripted.port, "POST", path, {**body, field: 2.5})
    assert (reply.status, field in reply.body.decode()) == (400, True)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_ollamas_options_lose_their_fraction(scripted: ServerProcess, path: str) -> None:
    """As its FromMap does it. Home Assistant sends every number as a float."""
    options = {"num_ctx": 8192.0, "num_predict": 2.9, "top_k": 40.5, "seed": 7.0, "temperature": 1, "num_gpu": 1.0}
    body = {"messages": USER} if path == "/api/chat" else {"prompt": TEXT}
    reply = ask(scripted.port, "POST", path, {**body, "stream": False, "options": options})
    assert (reply.status, reply.json()["eval_count"]) == (200, 2)
    for wrong in ({"num_predict": "2"}, {"num_ctx": True}, {"top_k": [1]}, {"temperature": "1"}):
        reply = ask(scripted.port, "POST", path, {**body, "stream": False, "options": wrong})
        assert (reply.status, f"options.{next(iter(wrong))}" in reply.body.decode()) == (400, True), wrong


def test_ollamas_options_of_embeddings(scripted: ServerProcess) -> None:
    for path, field in (("/api/embed", "input"), ("/api/embeddings", "prompt")):
        body = {field: "a", "options": {"num_ctx": 8192.5}}
        assert ask(scripted.port, "POST", path, body).status == 200
