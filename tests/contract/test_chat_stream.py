"""The chat stream's bytes, rule by rule."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openai_wire import Connection, Reply, ask, chat, chat_stream, check_usage, say
from servers import ServerProcess

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def stream(server: ServerProcess, text: str, **fields: object) -> Reply:
    return ask(server.port, "POST", "/v1/chat/completions", chat(text, stream=True, **fields))


def test_complete_stream_byte_for_byte(scripted: ServerProcess) -> None:
    """Everything but id and time is known, so everything is compared."""
    reply = stream(scripted, "<say>ab</say>", stream_options={"include_usage": True})
    chat_stream(reply)
    first = json.loads(reply.chunks[0][6:])
    head = (
        b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":"fake",'
        b'"system_fingerprint":"%b","choices":['
        % (
            first["id"].encode(),
            first["created"],
            first["system_fingerprint"].encode(),
        )
    )
    prompt = len("[user]<say>ab</say>") + 1
    ending = b'"finish_reason":null}]}\n\n'
    usage = (
        b'"usage":{"prompt_tokens":%d,"completion_tokens":3,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":'
        % (prompt + 1, prompt + 4)
    )
    *chunks, usage_chunk, done = reply.chunks
    assert chunks == [
        head + b'{"index":0,"delta":{"role":"assistant","content":""},' + ending,
        head + b'{"index":0,"delta":{"content":"a"},' + ending,
        head + b'{"index":0,"delta":{"content":"b"},' + ending,
        head + b'{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    ]
    assert usage_chunk.startswith(head + b"]," + usage)
    assert done == b"data: [DONE]\n\n"


def test_no_usage_unless_requested(scripted: ServerProcess) -> None:
    assert chat_stream(stream(scripted, "<say>a</say>")).usage is None
    assert chat_stream(stream(scripted, "<say>a</say>", stream_options={"include_usage": False})).usage is None
    assert chat_stream(stream(scripted, "<say>a</say>", stream_options=None)).usage is None


def test_stream_options_without_a_stream_are_harmless(scripted: ServerProcess) -> None:
    body = chat("<say>a</say>", stream_options={"include_usage": True})
    reply = ask(scripted.port, "POST", "/v1/chat/completions", body).json()
    assert reply["choices"][0]["message"]["content"] == "a"


@pytest.mark.parametrize(
    "text", ["naïve", "日本語のテキスト", "🏳️‍🌈👩‍👩‍👧‍👦", "a\u2028b\u2029c\x85d", "\r\n\n\r", '"\\/\b\f\t\0']
)
def test_characters_split_over_tokens_stay_whole(scripted: ServerProcess, text: str) -> None:
    """Each of the scripted backend's tokens is one byte."""
    reply = chat_stream(stream(scripted, say(text)))
    assert reply.text == [text]


def test_bytes_that_are_no_text_become_replacement_characters_alone_where_they_stand(scripted: ServerProcess) -> None:
    reply = chat_stream(stream(scripted, say(b"a\xffb\xc3")))
    assert reply.text == ["a\ufffdb"], "the cut-off last character is dropped, not shown as one that was wrong"


def test_no_line_is_too_long_for_a_scanner_of_64_kib(scripted: ServerProcess) -> None:
    """What may be a stop string is held back, then comes all at once, with the probabilities of all its tokens."""
    reply = stream(scripted, say("\x01" * 1000 + "."), stop=["\x01" * 1000 + "!"], logprobs=True, top_logprobs=20)
    tokens = [json.loads(data[6:])["choices"][0].get("logprobs") for data in reply.chunks[:-1]]
    assert all(len(chunk) < 60_000 for chunk in reply.chunks)
    assert sum(map(len, reply.chunks)) > 1_000_000, "it would have been one line"
    assert sum(len(entry["content"]) for entry in tokens if entry) == 1001


def test_the_finish_reason_is_length_at_the_limit(scripted: ServerProcess) -> None:
    reply = chat_stream(stream(scripted, "<say>abcdef</say>", max_tokens=3, stream_options={"include_usage": True}))
    assert (reply.text, reply.finish) == (["abc"], ["length"])
    assert reply.usage is not None
    assert reply.usage["completion_tokens"] == 3


def test_max_completion_tokens_counts_and_comes_first(scripted: ServerProcess) -> None:
    assert chat_stream(stream(scripted, "<say>abcdef</say>", max_completion_tokens=2)).text == ["ab"]
    assert chat_stream(stream(scripted, "<say>abcdef</say>", max_completion_tokens=2, max_tokens=4)).text == ["ab"]


def test_several_replies(scripted: ServerProcess) -> None:
    reply = chat_stream(stream(scripted, say("één"), n=3, stream_options={"include_usage": True}), choices=3)
    assert reply.text == ["één"] * 3
    assert reply.finish == ["stop"] * 3
    assert reply.usage is not None
    assert reply.usage["completion_tokens"] == 3 * (len("één".encode()) + 1)


# Stop strings


@pytest.mark.parametrize(
    ("stop", "text", "finish"),
    [
        ("END", "one two ", "stop"),
        (["three", "two"], "one ", "stop"),
        ("NEVER", "one two END three", "stop"),
        ("END!", "one two END three", "stop"),
        ([], "one two END three", "stop"),
        ("one", "", "stop"),
    ],
)
def test_stop_strings_over_several_tokens(scripted: ServerProcess, stop: object, text: str, finish: str) -> None:
    reply = chat_stream(stream(scripted, "<say>one two END three</say>", stop=stop, temperature=0))
    assert (reply.text, reply.finish) == ([text], [finish])


def test_usage_counts_what_was_generated_up_to_the_stop_string(scripted: ServerProcess) -> None:
    reply = chat_stream(stream(scripted, "<say>abcdef</say>", stop="cd", stream_options={"include_usage": True}))
    assert reply.text == ["ab"]
    assert reply.usage is not None
    assert reply.usage["completion_tokens"] == 4


def test_usage_has_accepted_and_rejected_prediction_tokens(real: ServerProcess) -> None:
    """After 256 right draft tokens a draft is verified, even on a machine where drafts don't pay."""
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 320, "ignore_eos": True}
    plain = ask(real.port, "POST", "/v1/chat/completions", chat("Tell me a long story.", **asked)).json()
    assert "completion_tokens_details" not in plain["usage"]
    asked["prediction"] = {"type": "content", "content": plain["choices"][0]["message"]["content"]}
    options = {"stream_options": {"include_usage": True}}
    streamed = chat_stream(stream(real, "Tell me a long story.", **asked, **options)).usage
    whole = ask(real.port, "POST", "/v1/chat/completions", chat("Tell me a long story.", **asked)).json()["usage"]
    for usage in (streamed, whole):
        assert usage is not None
        check_usage(usage)
        details = usage["completion_tokens_details"]
        assert set(details) == {"accepted_prediction_tokens", "rejected_prediction_tokens"}
        assert 0 < details["accepted_prediction_tokens"] <= 320
        assert details["rejected_prediction_tokens"] >= 0


def test_usage_has_the_reasoning_tokens(scripted: ServerProcess) -> None:
    reply = ask(scripted.port, "POST", "/v1/chat/completions", chat("<say><think>why?</think>so</say>")).json()
    assert reply["choices"][0]["message"]["reasoning_content"] == "why?"
    assert reply["usage"]["completion_tokens_details"] == {"reasoning_tokens": len("<think>why?")}


def test_one_choice_that_stops_early_does_not_affect_the_others(scripted: ServerProcess) -> None:
    """Choices draw differently: those without the stop string run on to the end of the script."""
    body = chat("<say>xyz</say>", stream=True, n=4, stop="y", temperature=0)
    assert chat_stream(ask(scripted.port, "POST", "/v1/chat/completions", body), choices=4).text == ["x"] * 4
    assert chat_stream(stream(scripted, "<say>after</say>")).text == ["after"]


# Reasoning


def test_reasoning_is_separate_from_content(scripted: ServerProcess) -> None:
    reply = chat_stream(stream(scripted, say("<think>\nwhy? 🤔\n</think>\n\nbecause")))
    assert (reply.reasoning, reply.text) == (["why? 🤔"], ["because"])


def test_reasoning_that_the_template_has_opened(scripted: ServerProcess) -> None:
    reply = chat_stream(stream(scripted, "<say>hm</think>so</say> <think>"))
    assert (reply.reasoning, reply.text) == (["hm"], ["so"])


def test_reasoning_that_is_cut_off_is_reasoning(scripted: ServerProcess) -> None:
    reply = chat_stream(stream(scripted, "<say><think>and then</say>", max_tokens=10))
    assert (reply.reasoning, reply.text, reply.finish) == (["and"], [""], ["length"])


def test_reasoning_not_streamed(scripted: ServerProcess) -> None:
    body = chat("<say><think>why</think>because</say>")
    (choice,) = ask(scripted.port, "POST", "/v1/chat/completions", body).json()["choices"]
    message = {"role": "assistant", "content": "because", "refusal": None}
    assert choice["message"] == {**message, "reasoning_content": "why"}


# Tool calls


def test_tool_calls(scripted: ServerProcess) -> None:
    said = (
        'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "deep": {"a": [1, 2.5, null]}}}'
        '\n</tool_call>\n<tool_call>{"name": "weather"}</tool_call>'
    )
    reply = chat_stream(stream(scripted, say(said), tools=[WEATHER]))
    assert reply.text == ["Let me look."]
    assert reply.finish == ["tool_calls"]
    first, second = reply.calls[0]
    assert json.loads(first["arguments"]) == {"city": "Zürich", "deep": {"a": [1, 2.5, None]}}
    assert second["arguments"] == "{}"
    assert [call["name"] for call in reply.calls[0]] == ["weather", "weather"]


def test_tool_calls_not_streamed(scripted: ServerProcess) -> None:
    body = chat(say('<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call>'), tools=[WEATHER])
    reply = ask(scripted.port, "POST", "/v1/chat/completions", body).json()
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ""
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["type"] == "function"
    assert json.loads(call["function"]["arguments"]) == {"city": "Zürich"}


def test_tool_calls_end_a_reply_with_tool_calls_even_when_it_was_cut_off(scripted: ServerProcess) -> None:
    call = '<tool_call>{"name": "weather"}</tool_call>'
    reply = chat_stream(stream(scripted, say(call + " and more"), tools=[WEATHER], max_tokens=len(call) + 2))
    assert len(reply.calls[0]) == 1
    assert reply.finish == ["tool_calls"]


def test_one_tool_call_without_parallel_tool_calls(scripted: ServerProcess) -> None:
    call = '<tool_call>{"name": "weather"}</tool_call>'
    reply = chat_stream(stream(scripted, say(call * 3), tools=[WEATHER], parallel_tool_calls=False))
    assert len(reply.calls[0]) == 1


@pytest.mark.parametrize(
    "broken",
    [
        "<tool_call>not json</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "text"}</tool_call>',
        '<tool_call>{"name": "weather"',
        '<tool_call>{"name": "weather.Paris.London", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"a": 1,,}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"a": "\\ud800"}}</tool_call>',
    ],
)
def test_the_grammar_completes_a_call_that_the_model_would_break(scripted: ServerProcess, broken: str) -> None:
    """From the marker on a grammar holds it; what broken calls are read as stands in ``test_reply_parser``."""
    body = chat(say(broken), tools=[WEATHER], max_tokens=4000)
    (choice,) = ask(scripted.port, "POST", "/v1/chat/completions", body).json()["choices"]
    call = choice["message"]["tool_calls"][0]["function"]
    assert call["name"] == "weather"
    # Behind its script the backend draws at random, and may draw the closing brace late.
    if choice["finish_reason"] == "tool_calls":
        assert isinstance(json.loads(call["arguments"]), dict)
    else:
        assert choice["finish_reason"] == "length"


def test_a_call_that_is_cut_off_ends_with_length(scripted: ServerProcess) -> None:
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    body = chat(say(call), tools=[WEATHER], max_tokens=call.index("Rome"))
    (choice,) = ask(scripted.port, "POST", "/v1/chat/completions", body).json()["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "'
    assert choice["finish_reason"] == "length"


def test_arguments_stream_as_they_are_written(scripted: ServerProcess) -> None:
    """Each of the scripted backend's tokens is one byte, and so is each fragment."""
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    reply = chat_stream(stream(scripted, say(call), tools=[WEATHER], logprobs=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in reply.chunks]
    fragments = [delta["tool_calls"][0]["function"]["arguments"] for delta in deltas if "tool_calls" in delta]
    assert fragments == ["", *'{"city": "Rome"}']
    tokens = [chunk["choices"][0]["logprobs"]["content"] for chunk in reply.chunks if "logprobs" in chunk["choices"][0]]
    assert "".join(entry["token"] for entries in tokens for entry in entries) == call


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": None}, {"tools": [WEATHER], "tool_choice": "none"}])
def test_without_tools_a_call_is_text(scripted: ServerProcess, fields: dict[str, object]) -> None:
    call = '<tool_call>{"name": "weather"}</tool_call>'
    reply = chat_stream(stream(scripted, say(call), **fields))
    assert (reply.text, reply.calls) == ([call], [[]])


# Log probabilities


def test_log_probabilities_cover_every_token_even_held_back_ones(scripted: ServerProcess) -> None:
    reply = stream(scripted, "<say>abcd</say>", logprobs=True, top_logprobs=2, stop="bcX", temperature=0)
    entries = []
    for data in reply.chunks[:-1]:
        (choice,) = json.loads(data[6:])["choices"]
        if "logprobs" in choice:
            entries += choice["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == ["a", "b", "c", "d"]
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in entries)
    assert entries[0]["bytes"] == [97]
    assert entries[0]["top_logprobs"][0]["token"] == "a"


def test_log_probabilities_not_streamed(scripted: ServerProcess) -> None:
    body = chat(say("é"), logprobs=True)
    (choice,) = ask(scripted.port, "POST", "/v1/chat/completions", body).json()["choices"]
    assert [entry["bytes"] for entry in choice["logprobs"]["content"]] == [[0xC3], [0xA9]]
    assert choice["message"]["content"] == "é"


# Not streamed


def test_complete_reply(scripted: ServerProcess) -> None:
    reply = ask(scripted.port, "POST", "/v1/chat/completions", chat("<say>ab</say>")).json()
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "fake"
    assert type(reply["created"]) is int
    check_usage(reply["usage"])
    message = {"role": "assistant", "content": "ab", "refusal": None}
    assert reply["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]


def test_an_empty_reply_is_an_empty_string(scripted: ServerProcess) -> None:
    reply = ask(scripted.port, "POST", "/v1/chat/completions", chat("<say></say>")).json()
    assert reply["choices"][0]["message"]["content"] == ""
    check_usage(reply["usage"])
    assert chat_stream(stream(scripted, "<say></say>")).text == [""]


# The real model


def test_the_real_model(real: ServerProcess) -> None:
    fields = {"temperature": 0, "max_tokens": 16, "stream_options": {"include_usage": True}}
    text = "Name the capital of France."
    streamed = chat_stream(stream(real, text, **fields))
    assert "Paris" in streamed.text[0]
    assert streamed.chunks[0]["model"] == "smollm2-135m"
    body = ask(real.port, "POST", "/v1/chat/completions", chat(text, **fields)).json()
    assert body["choices"][0]["message"]["content"] == streamed.text[0]
    assert streamed.usage is not None
    assert body["usage"]["total_tokens"] == streamed.usage["total_tokens"]


def test_the_real_models_characters_stay_whole(real: ServerProcess) -> None:
    """Drawn hot from the whole vocabulary, so that byte tokens and parts of characters come."""
    reply = stream(real, "Emoji!", temperature=2, top_k=0, top_p=1, min_p=0, seed=7, max_tokens=40, ignore_eos=True)
    assert chat_stream(reply).finish == ["length"]


def test_concurrent_requests_never_alter_each_others_text(real: ServerProcess) -> None:
    """Each is a true decode of its own prompt. Batches of another size round differently, so where a reply in company
    first differs from the one alone, both tokens must have been about equally likely.
    """
    prompts = [f"Write a sentence about the number {number}." for number in range(6)]
    fields = {"temperature": 0, "max_tokens": 16, "stream": True, "logprobs": True, "top_logprobs": 5}

    alone = [_tokens(ask(real.port, "POST", "/v1/chat/completions", chat(prompt, **fields))) for prompt in prompts]
    connections = [Connection(real.port) for _ in prompts]
    for connection, prompt in zip(connections, prompts, strict=True):
        connection.request("POST", "/v1/chat/completions", chat(prompt, **fields))
    for connection, lone in zip(connections, alone, strict=True):
        with connection:
            company = _tokens(connection.read())
        for mine, theirs in zip(lone, company, strict=False):
            if mine["token"] != theirs["token"]:
                likely = {entry["token"]: entry["logprob"] for entry in mine["top_logprobs"]}
                assert likely[theirs["token"]] > mine["logprob"] - 0.5
                break


def _tokens(reply: Reply) -> list[dict[str, Any]]:
    chunks = [json.loads(data[6:])["choices"][0] for data in reply.chunks[:-1]]
    return [entry for chunk in chunks if "logprobs" in chunk for entry in chunk["logprobs"]["content"]]


def test_many_scripted_replies_at_once_each_say_their_own(scripted: ServerProcess) -> None:
    """More than run at a time, of different lengths, with clients that leave in between."""
    connections = [Connection(scripted.port) for _ in range(40)]
    texts = [f"<{number}é>" * (number * 5 % 37 + 1) for number in range(40)]
    for number, (connection, text) in enumerate(zip(connections, texts, strict=True)):
        connection.request("POST", "/v1/chat/completions", chat(say(text), stream=True))
        if number % 4 == 3:
            connection.reset()
    for number, (connection, text) in enumerate(zip(connections, texts, strict=True)):
        if number % 4 != 3:
            with connection:
                assert chat_stream(connection.read()).text == [text]
