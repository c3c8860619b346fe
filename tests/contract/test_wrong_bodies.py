"""Bodies that are no requests, or that no model can take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openai_requests import CHAT, COMPLETIONS, ask_chat, ask_completion
from openai_wire import Connection, ask, chat, chat_stream, say, text_stream
from servers import ServerProcess


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"messages": [{"role": "user", "content": "x"}]',
        b'{"messages": [{"role": "user", "content": "x"}]} x',
        b"{'messages': []}",
        b'{"messages": [], }',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"temperature": 01}',
        b'{"model": "\xff\xfe"}',
        b'{"model": "\\ud800"}',
        b'{"model": "\\x"}',
        b'{"model": "a\nb"}',
        b"\xef\xbb\xbf{}",
        b"\x1f\x8b\x08\x00",
        b"[" * 100_000,
        b'{"messages": ' + b"[" * 100_000,
        b'{"metadata": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"a":' * 100_000,
        b"messages=hi",
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_is_no_json_is_a_400(scripted: ServerProcess, path: str, body: bytes) -> None:
    reply = ask(scripted.port, "POST", path, body, {"content-length": str(len(body))})
    assert reply.status == 400
    assert reply.error()["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"true"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_is_no_object_is_a_400(scripted: ServerProcess, path: str, body: bytes) -> None:
    reply = ask(scripted.port, "POST", path, body)
    assert reply.status == 400
    assert "object" in reply.error()["message"]


def test_required_fields(scripted: ServerProcess) -> None:
    assert ask(scripted.port, "POST", CHAT, {}).error()["param"] == "messages"
    assert ask(scripted.port, "POST", COMPLETIONS, {}).error()["param"] == "prompt"


def test_a_model_that_is_not_served(scripted: ServerProcess) -> None:
    for reply in (ask_chat(scripted, model="gpt-4o"), ask_completion(scripted, model="gpt-4o", stream=True)):
        assert reply.status == 404
        error = reply.error()
        assert (error["param"], error["code"]) == ("model", "model_not_found")
        assert "gpt-4o" in error["message"]
        assert "'fake'" in error["message"]
    assert ask_chat(scripted, model="fake").status == 200
    assert len(ask_chat(scripted, model="m" * 500_000).error()["message"]) < 1000


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_does_not_fit_names_both_numbers(real: ServerProcess, stream: bool) -> None:
    reply = ask(real.port, "POST", CHAT, chat("word " * 3000, stream=stream))
    assert reply.status == 400
    error = reply.error()
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
    numbers = [int(word) for word in error["message"].replace(",", " ").split() if word.isdigit()]
    assert 2048 in numbers
    assert any(3000 <= number < 3100 for number in numbers)
    reply = ask(real.port, "POST", COMPLETIONS, {"prompt": "word " * 3000, "stream": stream})
    assert (reply.status, reply.error()["param"]) == (400, "prompt")


def test_an_empty_prompt_is_answered_or_refused_but_no_defect(scripted: ServerProcess, real: ServerProcess) -> None:
    for server in (scripted, real):
        assert ask(server.port, "POST", COMPLETIONS, {"prompt": "", "max_tokens": 1}).status in (200, 400)
        assert ask(server.port, "POST", CHAT, chat("", max_tokens=1)).status == 200


@pytest.mark.parametrize("chunked", [0, 65536])
def test_a_body_of_100_mb_is_refused_and_the_client_can_read_it(scripted: ServerProcess, chunked: int) -> None:
    """The limit is 1 MB here. The client writes everything before it reads, as most do."""
    with Connection(scripted.port) as connection:
        connection.request("POST", CHAT, bytes(100_000_000), chunked=chunked)
        reply = connection.read()
        assert reply.status == 413
        assert reply.error()["code"] == "body_too_large"
        assert "1000000" in reply.error()["message"]
    assert ask_chat(scripted).status == 200


def test_tools_that_no_template_can_print(scripted: ServerProcess, real: ServerProcess) -> None:
    """As deep as the JSON reader goes."""
    deep: Any = {}
    for _ in range(450):
        deep = {"a": deep}
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    for server in (scripted, real):
        assert ask(server.port, "POST", CHAT, chat("hi", tools=[tool], max_tokens=1)).status in (200, 400)


def test_no_request_so_far_has_hit_a_defect(scripted: ServerProcess, real: ServerProcess) -> None:
    """Each test above has looked at its own reply; this looks at what the processes said of it."""
    for server in (scripted, real):
        assert "Traceback" not in server.log
        assert "defect" not in server.log


def test_both_dialects_still_work(scripted: ServerProcess) -> None:
    assert chat_stream(ask_chat(scripted, stream=True)).text == ["ok"]
    assert text_stream(ask_completion(scripted, stream=True)).text == ["ok"]
    assert json.loads(ask_chat(scripted, messages=[{"role": "user", "content": say("é")}]).body)["usage"]


def test_usage_has_cached_tokens_after_a_stop_string(scripted: ServerProcess) -> None:
    body = chat(say("one two three"), stop="two")
    first, second = (ask(scripted.port, "POST", "/v1/chat/completions", body).json() for _ in range(2))
    assert second["choices"][0]["message"]["content"] == "one "
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == first["usage"]["prompt_tokens"] - 1, "all but the last token, which is always computed"


def test_a_hopeless_prompt_is_refused_without_being_tokenised(real: ServerProcess) -> None:
    reply = ask(real.port, "POST", "/v1/completions", {"prompt": "word " * 4_000_000})
    assert reply.status == 400
    assert reply.error()["code"] == "context_length_exceeded"
    assert "the prompt has at least" in reply.error()["message"]
    assert "2048" in reply.error()["message"]
