"""A prompt that doesn't fit: the numbers that clients shorten it by, beside OpenAI's own shape."""

from __future__ import annotations

from typing import Any

import pytest

from openai_wire import ask, chat
from servers import ServerProcess

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat("x" * 400_000),
    "/v1/completions": {"prompt": "x" * 400_000},
    "/v1/responses": {"input": "x" * 400_000},
    "/v1/embeddings": {"input": "x" * 400_000},
    "/v1/rerank": {"query": "x", "documents": ["x" * 400_000]},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_the_error_has_both_numbers(scripted: ServerProcess, path: str, stream: bool) -> None:
    body = BODIES[path] if path in ("/v1/embeddings", "/v1/rerank") else {**BODIES[path], "stream": stream}
    reply = ask(scripted.port, "POST", path, body)
    assert reply.status == 400
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "n_prompt_tokens", "n_ctx"}
    assert error["code"] == "context_length_exceeded"
    assert error["n_ctx"] == 300_000
    assert 400_000 <= error["n_prompt_tokens"] < 400_020
    assert str(error["n_prompt_tokens"]) in error["message"]


def test_other_errors_have_none(scripted: ServerProcess) -> None:
    reply = ask(scripted.port, "POST", "/v1/completions", {"prompt": "a", "stop_token_ids": [999_999]})
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_prompt_that_is_too_large_to_count_has_a_lower_bound(real: ServerProcess) -> None:
    reply = ask(real.port, "POST", "/v1/completions", {"prompt": "word " * 4_000_000})
    error = reply.json()["error"]
    assert "at least" in error["message"]
    assert error["n_prompt_tokens"] > error["n_ctx"] == 2048
