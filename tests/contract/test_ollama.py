"""Ollama's two generating routes: the streams' bytes, and the parts of replies."""

from __future__ import annotations

import json
import math

import pytest

from ollama_requests import both, chat, generate, refused
from ollama_wire import error, lines, stream, whole
from openai_wire import Connection, ask, metric, say
from servers import ServerProcess, wait_for

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


# The stream


def test_a_chat_line_for_line(scripted: ServerProcess) -> None:
    """Streaming is the default."""
    reply = chat(scripted, "<say>ab</say>")
    told = stream(reply)
    assert [list(entry) for entry in told.objects[:-1]] == [["model", "created_at", "message", "done"]] * 3
    assert [entry["message"] for entry in told.objects] == [
        {"role": "assistant", "content": text} for text in ("", "a", "b", "")
    ]
    assert told.last["done_reason"] == "stop"
    assert told.last["prompt_eval_count"] == len("[user]<say>ab</say>\n") + 1
    assert told.last["eval_count"] == 3
    assert told.last["model"] == "fake"
    created = told.objects[1]["created_at"].encode()
    line = b'{"model":"fake","created_at":"%b","message":{"role":"assistant","content":"a"},"done":false}\n'
    assert reply.chunks[1] == line % created


def test_a_generation_line_for_line(scripted: ServerProcess) -> None:
    told = stream(generate(scripted, "<say>ab</say>"))
    assert [entry["response"] for entry in told.objects] == ["", "a", "b", ""]
    assert [list(entry) for entry in told.objects[:-1]] == [["model", "created_at", "response", "done"]] * 3


def test_whole_replies(scripted: ServerProcess) -> None:
    reply = chat(scripted, "<say>ab</say>", stream=False)
    assert whole(reply).last["message"] == {"role": "assistant", "content": "ab"}
    assert whole(generate(scripted, "<say>ab</say>", stream=False)).last["response"] == "ab"
    assert b"\n" not in reply.body


@pytest.mark.parametrize("text", ["naïve", "日本語", "👩‍👩‍👧‍👦", "a\u2028b\x85c", "\r\n\n\r", '"\\/\b\0'])
def test_no_character_breaks_a_line_or_is_broken(scripted: ServerProcess, text: str) -> None:
    assert [told.text for told in both(scripted, say(text))] == [text] * 4


def test_durations_are_of_this_request(slow: ServerProcess) -> None:
    """20 ms a step: a prompt of at least three steps, then ten tokens."""
    for told in (
        stream(chat(slow, "x" * 190 + "<say>abcdefghi</say>")),
        whole(chat(slow, "x" * 190 + "<say>abcdefghi</say>", stream=False)),
    ):
        assert told.last["eval_count"] == 10
        assert told.last["eval_duration"] >= 8 * 20_000_000
        assert told.last["prompt_eval_duration"] >= 20_000_000
        assert told.last["total_duration"] >= told.last["eval_duration"] + told.last["prompt_eval_duration"] - 3


def test_keep_alives_are_objects_with_empty_content(slow: ServerProcess) -> None:
    told = stream(chat(slow, "o" * 6000 + "<say>b</say>"))
    assert told.text == "b"
    empty = [entry for entry in told.objects[1:-1] if entry["message"] == {"role": "assistant", "content": ""}]
    assert len(empty) >= 2, "keep-alives while the prompt is read"


def test_an_error_in_the_middle_is_the_last_line(slow: ServerProcess) -> None:
    for path, body in (
        ("/api/chat", {"messages": [{"role": "user", "content": "<say>ab<nan></say>"}]}),
        ("/api/generate", {"prompt": "<say>ab<nan></say>"}),
    ):
        *objects, last = lines(ask(slow.port, "POST", path, body))
        assert list(last) == ["error"]
        assert "can't be continued" in last["error"]
        assert all(entry["done"] is False for entry in objects)
        reply = ask(slow.port, "POST", path, {**body, "stream": False})
        assert reply.status == 500
        assert "can't be continued" in error(reply)


def test_a_client_that_goes_away_ends_its_generation(slow: ServerProcess) -> None:
    with Connection(slow.port) as connection:
        body = {"messages": [{"role": "user", "content": "<say>" + "x" * 7000 + "</say>"}]}
        connection.request("POST", "/api/chat", body)
        connection.read_head()
        wait_for("the slot to be taken", lambda: metric(slow.port, "vllm:num_requests_running") == 1)
    wait_for("the slot to be free", lambda: metric(slow.port, "vllm:num_requests_running") == 0)


# What replies are made of


def test_limits_and_stops(scripted: ServerProcess) -> None:
    for told in both(scripted, "<say>abcdef</say>", options={"num_predict": 3}):
        assert (told.text, told.last["done_reason"], told.last["eval_count"]) == ("abc", "length", 3)
    for limit in (0, -1, -2):
        for told in both(scripted, "<say>abcdef</say>", options={"num_predict": limit}):
            assert (told.text, told.last["done_reason"]) == ("abcdef", "stop")
    for stop in ("cd", ["x", "cd"]):
        for told in both(scripted, "<say>abcdef</say>", options={"stop": stop}):
            assert (told.text, told.last["done_reason"]) == ("ab", "stop")


def test_thoughts_stand_apart(scripted: ServerProcess) -> None:
    for told in both(scripted, "<say><think>hm\n\nso</think>\nyes</say>"):
        assert (told.thinking, told.text) == ("hm\n\nso", "yes")


def test_thoughts_inline_where_that_is_set(inline: ServerProcess) -> None:
    told = stream(chat(inline, "<say><think>hm</think>yes</say>"))
    assert (told.thinking, told.text) == ("", "<think>hm</think>yes")


def test_tool_calls_are_complete_objects(scripted: ServerProcess) -> None:
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2]}}</tool_call>'
    other = '<tool_call>{"name": "weather"}</tool_call>'
    reply = chat(scripted, say("Let me see. " + call + other), tools=[WEATHER])
    told = stream(reply)
    assert told.text == "Let me see."
    arguments = [entry["function"]["arguments"] for entry in told.calls]
    assert arguments == [{"city": "Zürich", "days": [1, 2]}, {}]
    assert told.last["done_reason"] == "stop"
    assert len({entry["id"] for entry in told.calls}) == 2
    for entry in told.objects:
        assert len(entry["message"].get("tool_calls", [])) <= 1
    same = whole(chat(scripted, say("Let me see. " + call + other), tools=[WEATHER], stream=False))
    assert same.text == told.text
    assert [entry["function"] for entry in same.calls] == [entry["function"] for entry in told.calls]


def test_a_conversation_with_tools_is_rendered(scripted: ServerProcess) -> None:
    """What the scripted backend's template shows of it is the content; nothing of the rest may be refused."""
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "weather?", "images": []},
        {
            "role": "assistant",
            "thinking": "hm",
            "content": "",
            "tool_calls": [
                {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Bern"}}}
            ],
        },
        {"role": "tool", "tool_name": "weather", "content": "<say>sunny</say>"},
    ]
    # A result whose call is left out, as clients that keep only the last messages send it.
    told = stream(ask(scripted.port, "POST", "/api/chat", {"messages": messages[3:]}))
    assert told.text == "sunny"
    told = stream(ask(scripted.port, "POST", "/api/chat", {"messages": messages, "tools": [WEATHER]}))
    assert told.text == "sunny"


def test_log_probabilities(scripted: ServerProcess) -> None:
    for told in both(scripted, "<say>ab</say>", logprobs=True, top_logprobs=2):
        assert [entry["token"] for entry in told.logprobs[:2]] == ["a", "b"]
        for entry in told.logprobs[:2]:
            assert entry["bytes"] == list(entry["token"].encode())
            assert math.isclose(entry["logprob"], 0.0, abs_tol=1e-3)
            assert len(entry["top_logprobs"]) == 2
            assert entry["top_logprobs"][0]["token"] == entry["token"]
    for told in both(scripted, "<say>ab</say>", logprobs=True):
        assert all("top_logprobs" not in entry for entry in told.logprobs)
        assert told.logprobs


def test_a_raw_prompt_is_the_prompt(scripted: ServerProcess) -> None:
    """A prompt without a script is echoed, and so seen as the engine got it."""
    assert stream(generate(scripted, "hello", raw=True)).text == "hello"
    assert stream(generate(scripted, "hello")).text == "[user]hello\n"
    assert stream(generate(scripted, "hello", system="be kind")).text == "[system]be kind\n[user]hello\n"
    thought = whole(generate(scripted, "<think>a</think>", raw=True, stream=False))
    assert (thought.text, thought.thinking) == ("<think>a</think>", "")


def test_a_gap_is_filled(scripted: ServerProcess, real: ServerProcess) -> None:
    """The scripted model's prompt is what it says: prefix and suffix. The starter model has no tokens for that."""
    for fields in ({"suffix": "b"}, {"suffix": "b", "raw": True}):
        assert stream(generate(scripted, "a", **fields)).text == "ab"
    refused(generate(scripted, "a", suffix="b", system="c"), "system", "c")
    body = {"prompt": "a", "suffix": "b", "stream": False}
    refused(ask(real.port, "POST", "/api/generate", body), "suffix", "b")


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize(
    ("keep_alive", "reason"),
    [(None, "load"), ("5m", "load"), (-1, "load"), (0, "unload"), ("0", "unload"), ("0s", "unload")],
)
def test_without_a_prompt_the_model_is_only_loaded(
    scripted: ServerProcess, path: str, keep_alive: object, reason: str
) -> None:
    for streams in (True, False):
        reply = ask(scripted.port, "POST", path, {"model": "fake", "keep_alive": keep_alive, "stream": streams})
        expected = "application/x-ndjson" if streams else "application/json"
        assert reply.header("content-type") == expected
        body = json.loads(reply.body)
        assert (body["done"], body["done_reason"]) == (True, reason)
        assert body.get("response", body.get("message", {}).get("content")) == ""
    assert stream(chat(scripted, "<say>still here</say>")).text == "still here"


@pytest.mark.parametrize("keep_alive", ["5m", "1h30m", "-1", "-1m", "1.5h", "300", 300, 2.5, -1, 0])
def test_keep_alive_is_a_duration(scripted: ServerProcess, keep_alive: object) -> None:
    assert stream(chat(scripted, "<say>a</say>", keep_alive=keep_alive)).text == "a"


# Names


@pytest.mark.parametrize("name", ["fake", "fake:latest", "", None])
def test_names_of_the_served_model(scripted: ServerProcess, name: str | None) -> None:
    for told in both(scripted, "<say>a</say>", model=name):
        assert told.text == "a"
        assert told.last["model"] == (name or "fake:latest")


@pytest.mark.parametrize("name", ["other", "fake:7b", "library/fake", "fake:latest:latest", "x" * 5000])
def test_another_name_is_a_404(scripted: ServerProcess, name: str) -> None:
    for reply in (chat(scripted, "a", model=name), generate(scripted, "a", model=name)):
        assert reply.status == 404
        assert error(reply).startswith(f"model '{name[:200]}")
        assert "'fake'" in error(reply)
        assert len(error(reply)) < 300


# Structured output


def test_format_holds_the_reply(real: ServerProcess) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    body = {
        "messages": [{"role": "user", "content": "Who are you? Answer in JSON."}],
        "format": schema,
        "options": {"seed": 1, "num_predict": 100},
    }
    told = stream(ask(real.port, "POST", "/api/chat", body))
    if told.last["done_reason"] == "stop":
        assert set(json.loads(told.text)) == {"name", "age"}
    assert told.text.startswith("{")
    generated = {"prompt": "JSON please", "format": "json", "options": {"num_predict": 20}, "stream": False}
    assert whole(ask(real.port, "POST", "/api/generate", generated)).text.startswith("{")
