"""Requests that Ollama's two generating routes refuse: each wrong field is named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ollama_requests import both, chat, generate, refused
from ollama_wire import error, stream
from openai_wire import ask
from servers import ServerProcess
from tailrace.server.dialects.ollama.chat import ChatRequest
from tailrace.server.dialects.ollama.generate import GenerateRequest
from tailrace.server.dialects.ollama.options import Options

HUGE = 10**40

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


def test_a_schema_that_cannot_be_held_is_refused_by_name(scripted: ServerProcess) -> None:
    refused(chat(scripted, "a", format={"type": "nothing"}), "format", None)
