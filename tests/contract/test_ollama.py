"""Ollama's two generating routes: the streams' bytes, what replies are made of, what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest

from ollama_wire import Told, error, lines, stream, whole
from openai_wire import Connection, Reply, ask, metric, say
from servers import ServerProcess, wait_for
from tailrace.server.dialects.ollama.chat import ChatRequest
from tailrace.server.dialects.ollama.generate import GenerateRequest
from tailrace.server.dialects.ollama.options import Options

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
HUGE = 10**40


def chat(server: ServerProcess, text: str, **fields: object) -> Reply:
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], **fields}
    return ask(server.port, "POST", "/api/chat", body)


def generate(server: ServerProcess, prompt: str, **fields: object) -> Reply:
    return ask(server.port, "POST", "/api/generate", {"model": "fake", "prompt": prompt, **fields})


def both(server: ServerProcess, text: str, **fields: object) -> list[Told]:
    """The same asked in each of the four ways."""
    return [
        stream(chat(server, text, **fields)),
        whole(chat(server, text, stream=False, **fields)),
        stream(generate(server, text, **fields)),
        whole(generate(server, text, stream=False, **fields)),
    ]


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


# What is refused

SHARED: dict[str, list[object]] = {
    "model": [1, []],
    "stream": ["true", 1],
    "format": ["xml", 1, True, ["json"]],
    "options": [[], "a", 1],
    "keep_alive": ["soon", "5 minutes", "", "m", True, []],
    "think": ["much", 1, []],
    "reasoning_effort": [1, []],
    "chat_template_kwargs": ["a", 1, []],
    "truncate": [1, "true"],
    "shift": [1, "a"],
    "_debug_render_only": [True, 1],
    "logprobs": [1, "true"],
    "top_logprobs": [-1, 21, "1", 5],
}
OF_CHAT: dict[str, list[object]] = {
    "messages": [
        "hi",
        {},
        ["hi"],
        [None],
        1,
        [{"content": "a"}],
        [{"role": "robot"}],
        [{"role": "user", "content": 1}],
    ],
    "tools": [{}, "a", [1], [{"type": "function"}], [{"type": "code", "function": {"name": "a"}}]],
}
OF_GENERATE: dict[str, list[object]] = {
    "prompt": [1, [], {}],
    "suffix": [1, []],
    "system": [1, []],
    "template": ["{{ .Prompt }}", 1],
    "context": [[1, -2], "a", 1],
    "raw": [1, "true"],
    "images": [["aGk="], "a", 1],
    "width": [512, "a"],
    "height": [512, "a"],
    "steps": [5, "a"],
}
_FLOAT: list[object] = ["a", True, []]
_BOOLEAN: list[object] = ["a", 1]
_INTEGER: list[object] = ["a", True, [1], HUGE]
OPTIONS: dict[str, list[object]] = {
    "temperature": [-0.1, 100.1, *_FLOAT],
    "top_k": [-2, *_INTEGER],
    "top_p": [-0.1, 1.1, *_FLOAT],
    "min_p": [-0.1, 1.1, *_FLOAT],
    "seed": _INTEGER,
    "num_predict": [-3, *_INTEGER],
    "stop": [[1], 1, ["a"] * 1025, "x" * 1025],
    "repeat_last_n": [-2, *_INTEGER],
    "repeat_penalty": [0, 11, *_FLOAT],
    "presence_penalty": [-3, 3, *_FLOAT],
    "frequency_penalty": [-3, 3, *_FLOAT],
    "penalize_newline": _BOOLEAN,
    "penalize_nl": _BOOLEAN,
    "penalty_last_n": [-2, *_INTEGER],
    "typical_p": [-0.1, 1.1, *_FLOAT],
    "typ_p": [-0.1, 1.1, *_FLOAT],
    "top_n_sigma": [-1001, 1001, *_FLOAT],
    "xtc_probability": [-0.1, 1.1, *_FLOAT],
    "xtc_threshold": [-0.1, 1.1, *_FLOAT],
    "dynatemp_range": [-0.1, 101, *_FLOAT],
    "dynatemp_exponent": [-0.1, 101, *_FLOAT],
    "dry_multiplier": [-0.1, 1001, *_FLOAT],
    "dry_base": [-0.1, 1001, *_FLOAT],
    "dry_allowed_length": [-1, *_INTEGER],
    "dry_penalty_last_n": [-2, *_INTEGER],
    "dry_sequence_breakers": [[], "a", [1], ["a"] * 33, ["x" * 1025]],
    "mirostat": [-1, 3, *_INTEGER],
    "mirostat_tau": [-0.1, 1001, *_FLOAT],
    "mirostat_eta": [-0.1, 1001, *_FLOAT],
    "adaptive_target": [-1001, 1.1, *_FLOAT],
    "adaptive_decay": [-0.1, 1.0, *_FLOAT],
    "min_keep": [-1, *_INTEGER],
    "samplers": [1, {}, "kz", "k" * 17, ["nothing"], [1]],
    "tfs_z": [0.5, 2, *_FLOAT],
    "vocab_only": [True, *_BOOLEAN],
    "embedding_only": [True, *_BOOLEAN],
    "num_ctx": _INTEGER,
    "num_keep": _INTEGER,
    "num_batch": _INTEGER,
    "num_gpu": _INTEGER,
    "main_gpu": _INTEGER,
    "num_thread": _INTEGER,
    "draft_num_predict": _INTEGER,
    "numa": _BOOLEAN,
    "low_vram": _BOOLEAN,
    "f16_kv": _BOOLEAN,
    "logits_all": _BOOLEAN,
    "use_mmap": _BOOLEAN,
    "use_mlock": _BOOLEAN,
}
#: What clients send because it is Ollama's default, or an option that only says how Ollama loads a model.
ACCEPTED: dict[str, Any] = {
    "typical_p": 1.0,
    "tfs_z": 1,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "penalize_newline": True,
    "vocab_only": False,
    "num_ctx": 1_000_000,
    "num_keep": 4,
    "num_batch": 512,
    "num_gpu": -1,
    "main_gpu": 0,
    "num_thread": 8,
    "numa": False,
    "low_vram": False,
    "f16_kv": True,
    "logits_all": False,
    "use_mmap": True,
    "use_mlock": False,
    "draft_num_predict": 4,
    "seed": -1,
    "num_predict": -1,
    "repeat_last_n": 64,
    "unheard_of": 1,
    "temperature": None,
}


def encoded(kind: type[msgspec.Struct]) -> set[str]:
    return {entry.encode_name for entry in msgspec.structs.fields(kind)}


def test_no_field_is_left_out_here() -> None:
    assert set(SHARED) | set(OF_CHAT) == encoded(ChatRequest)
    assert set(SHARED) | set(OF_GENERATE) == encoded(GenerateRequest)
    assert set(OPTIONS) == encoded(Options)


def refused(reply: Reply, name: str, value: object) -> None:
    assert reply.status == 400, (name, value, reply.body)
    assert f"'{name}" in error(reply), (value, reply.body)


@pytest.mark.parametrize(("name", "values"), [*SHARED.items(), *OF_CHAT.items()], ids=lambda value: str(value)[:20])
def test_a_wrong_value_in_a_chat_names_the_field(scripted: ServerProcess, name: str, values: list[object]) -> None:
    for value in values:
        refused(chat(scripted, "a", **{name: value}), name, value)
        refused(chat(scripted, "a", **{"stream": False, name: value}), name, value)


@pytest.mark.parametrize(("name", "values"), [*SHARED.items(), *OF_GENERATE.items()], ids=lambda value: str(value)[:20])
def test_a_wrong_value_in_a_generation_names_the_field(
    scripted: ServerProcess, name: str, values: list[object]
) -> None:
    for value in values:
        refused(ask(scripted.port, "POST", "/api/generate", {"prompt": "a", name: value}), name, value)


@pytest.mark.parametrize(("name", "values"), OPTIONS.items(), ids=lambda value: str(value)[:20])
def test_a_wrong_option_is_named(scripted: ServerProcess, name: str, values: list[object]) -> None:
    for value in values:
        refused(chat(scripted, "a", options={name: value}), f"options.{name}", value)


def test_defaults_and_options_of_loading_are_accepted(scripted: ServerProcess) -> None:
    for told in both(scripted, "<say>ab</say>", options=ACCEPTED, truncate=True, shift=False, format="", think=""):
        assert told.text == "ab"


def test_the_options_of_ollamas_documentation_are_honoured(scripted: ServerProcess) -> None:
    """The example of its generate request with all options."""
    options = {
        "num_keep": 5,
        "seed": 42,
        "num_predict": 100,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.0,
        "typical_p": 0.7,
        "repeat_last_n": 33,
        "temperature": 0.8,
        "repeat_penalty": 1.2,
        "presence_penalty": 1.5,
        "frequency_penalty": 1.0,
        "penalize_newline": True,
        "stop": ["\n", "user:"],
        "numa": False,
        "num_ctx": 1024,
        "num_batch": 2,
        "num_gpu": 1,
        "main_gpu": 0,
        "use_mmap": True,
        "num_thread": 8,
    }
    for told in both(scripted, "<say>ab</say>", options=options):
        assert told.text == "ab"


def test_every_sampler_is_honoured(scripted: ServerProcess) -> None:
    """The scripted tokens are so far ahead that no order of samplers chooses others."""
    for options in (
        {"typical_p": 0.5, "temperature": 2.5},
        {"mirostat": 1, "mirostat_tau": 3.0, "mirostat_eta": 0.2},
        {"mirostat": 2, "penalize_newline": False, "repeat_penalty": 1.1},
        {"dry_multiplier": 0.8, "dry_sequence_breakers": ["x"], "xtc_probability": 0.5},
        {"samplers": ["penalties", "dry", "top_n_sigma", "min_p", "infill", "adaptive_p"], "adaptive_target": 0.9},
    ):
        for told in both(scripted, "<say>abc</say>", options=options):
            assert told.text == "abc", options


def test_null_equals_absent(scripted: ServerProcess) -> None:
    fields = dict.fromkeys(encoded(ChatRequest) - {"messages"})
    assert stream(chat(scripted, "<say>a</say>", **fields)).text == "a"
    options = dict.fromkeys(encoded(Options))
    fields = dict.fromkeys(encoded(GenerateRequest) - {"prompt"})
    assert stream(generate(scripted, "<say>a</say>", **{**fields, "options": options})).text == "a"


def test_images_are_refused_by_name(scripted: ServerProcess) -> None:
    message = {"role": "user", "content": "what is it?", "images": ["aGk="]}
    reply = ask(scripted.port, "POST", "/api/chat", {"messages": [{"role": "user"}, message]})
    refused(reply, "messages[1].images", message)


def test_a_system_text_has_no_place_in_a_raw_prompt(scripted: ServerProcess) -> None:
    refused(generate(scripted, "a", raw=True, system="b"), "system", "b")


def test_a_prompt_that_does_not_fit_is_refused_where_it_must_not_be_cut(slow: ServerProcess) -> None:
    for reply in (chat(slow, "x" * 9000, truncate=False), generate(slow, "x" * 9000, truncate=False)):
        assert reply.status == 400
        assert "8192" in error(reply)


def test_what_is_no_request(scripted: ServerProcess, keyed: ServerProcess) -> None:
    reply = ask(scripted.port, "POST", "/api/chat", b"{not json")
    assert (reply.status, "JSON" in error(reply)) == (400, True)
    reply = ask(scripted.port, "GET", "/api/chat")
    assert reply.status == 405
    assert error(reply)
    reply = ask(scripted.port, "POST", "/api/chat", b" " * 1_000_001)
    assert reply.status == 413
    assert error(reply)
    for path in ("/api/tags", "/api/ps", "/api/version"):
        reply = ask(keyed.port, "GET", path)
        assert reply.status == 401
        assert "API key" in error(reply)
        assert ask(keyed.port, "GET", path, headers={"authorization": "Bearer s3cret"}).status == 200


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


def test_a_schema_that_cannot_be_held_is_refused_by_name(scripted: ServerProcess) -> None:
    refused(chat(scripted, "a", format={"type": "nothing"}), "format", None)
