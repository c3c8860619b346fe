"""The text completion's stream and body."""

from __future__ import annotations

import json

import pytest

from servers import ServerProcess
from wire import Reply, ask, check_usage, say, text_stream


def complete(server: ServerProcess, prompt: object, **fields: object) -> Reply:
    return ask(server.port, "POST", "/v1/completions", {"prompt": prompt, "max_tokens": 1000, **fields})


def test_the_whole_stream_byte_for_byte(scripted: ServerProcess) -> None:
    reply = complete(scripted, "<say>ab</say>", stream=True, stream_options={"include_usage": True})
    text_stream(reply)
    first = json.loads(reply.chunks[0][6:])
    assert first["id"].startswith("cmpl-")
    head = b'data: {"id":"%b","object":"text_completion","created":%d,"model":"fake","choices":[' % (
        first["id"].encode(),
        first["created"],
    )
    *chunks, usage_chunk, done = reply.chunks
    assert chunks == [
        head + b'{"index":0,"text":"","finish_reason":null}]}\n\n',
        head + b'{"index":0,"text":"a","finish_reason":null}]}\n\n',
        head + b'{"index":0,"text":"b","finish_reason":null}]}\n\n',
        head + b'{"index":0,"text":"","finish_reason":"stop"}]}\n\n',
    ]
    assert usage_chunk.startswith(head + b'],"usage":{"prompt_tokens":14,"completion_tokens":3,"total_tokens":17,')
    assert done == b"data: [DONE]\n\n"


def test_no_usage_that_nobody_asked_for(scripted: ServerProcess) -> None:
    assert text_stream(complete(scripted, "<say>a</say>", stream=True)).usage is None


def test_the_reference_gives_sixteen_tokens(scripted: ServerProcess) -> None:
    stream = text_stream(complete(scripted, "<say>0123456789abcdefXYZ</say>", stream=True, max_tokens=None))
    assert (stream.text, stream.finish) == (["0123456789abcdef"], ["length"])


@pytest.mark.parametrize("text", ["naïve", "🏳️‍🌈", "<think>no markup here</think><tool_call>{}</tool_call>", "\r\n\0"])
def test_text_is_text(scripted: ServerProcess, text: str) -> None:
    assert text_stream(complete(scripted, say(text), stream=True)).text == [text]


def test_no_line_is_too_long(scripted: ServerProcess) -> None:
    """A stop string that never comes holds the text back, then lets it go at once."""
    held = "\x01" * 1000
    stream = complete(scripted, say(held), stream=True, stop=held + "X", logprobs=20)
    assert text_stream_text(stream) == held


def text_stream_text(reply: Reply) -> str:
    assert all(len(chunk) < 60_000 for chunk in reply.chunks)
    return "".join(json.loads(chunk[6:])["choices"][0]["text"] for chunk in reply.chunks[:-1])


def test_stop_strings(scripted: ServerProcess) -> None:
    reply = complete(scripted, "<say>one two END</say>", stream=True, stop=["END", "w"])
    assert text_stream(reply).text == ["one t"]


def test_every_form_of_prompt(scripted: ServerProcess) -> None:
    """Text, texts, token ids, lists of token ids; each prompt times n is a choice."""
    said = [*b"<say>b</say>", 257]
    assert text_stream(complete(scripted, said, stream=True)).text == ["b"]
    assert text_stream(complete(scripted, [said, said], stream=True), choices=2).text == ["b", "b"]
    prompts = ["<say>a</say>", "<say>b</say>"]
    assert text_stream(complete(scripted, prompts, stream=True, n=2), choices=4).text == ["a", "a", "b", "b"]
    body = complete(scripted, prompts, n=2).json()
    assert [choice["text"] for choice in body["choices"]] == ["a", "a", "b", "b"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 2 * 14 - 2, "each prompt counts once"
    assert body["usage"]["completion_tokens"] == 4 * 2


def test_the_whole_reply(scripted: ServerProcess) -> None:
    body = complete(scripted, "<say>ab</say>").json()
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "ab", "finish_reason": "stop"}]
    check_usage(body["usage"])


def test_log_probabilities(scripted: ServerProcess) -> None:
    (choice,) = complete(scripted, "<say>abc</say>", logprobs=2).json()["choices"]
    found = choice["logprobs"]
    assert found["tokens"] == ["a", "b", "c"]
    assert found["text_offset"] == [0, 1, 2]
    assert len(found["token_logprobs"]) == len(found["top_logprobs"]) == 3
    assert found["top_logprobs"][1]["b"] == found["token_logprobs"][1]
    streamed = [
        json.loads(c[6:])["choices"][0]
        for c in complete(scripted, "<say>abc</say>", logprobs=0, stream=True).chunks[:-1]
    ]
    entries = [choice["logprobs"] for choice in streamed if "logprobs" in choice]
    assert [offset for entry in entries for offset in entry["text_offset"]] == [0, 1, 2]


def test_the_real_model(real: ServerProcess) -> None:
    fields = {"temperature": 0, "max_tokens": 8}
    stream = text_stream(complete(real, "The capital of France is", stream=True, **fields))
    assert "Paris" in stream.text[0]
    assert complete(real, "The capital of France is", **fields).json()["choices"][0]["text"] == stream.text[0]
