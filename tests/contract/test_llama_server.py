"""llama-server's own routes: their fields, and the bodies that editors' plugins and SillyTavern send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openai_wire import Connection, Reply, ask
from servers import ServerProcess, wait_for

FINAL = {
    "index",
    "content",
    "tokens",
    "id_slot",
    "stop",
    "model",
    "tokens_predicted",
    "tokens_evaluated",
    "generation_settings",
    "prompt",
    "has_new_line",
    "truncated",
    "stop_type",
    "stopping_word",
    "tokens_cached",
    "timings",
}
#: What SillyTavern sends to llama.cpp with its default preset: most of it is for other servers.
SILLY_TAVERN: dict[str, Any] = {
    "model": "",
    "max_new_tokens": 4,
    "max_tokens": 4,
    "temperature": 0.7,
    "top_p": 0.5,
    "typical_p": 1,
    "typical": 1,
    "sampler_seed": -1,
    "min_p": 0,
    "repetition_penalty": 1.2,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "top_k": 40,
    "skew": 0,
    "min_tokens": 0,
    "add_bos_token": True,
    "smoothing_factor": 0,
    "smoothing_curve": 1,
    "dry_allowed_length": 2,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "dry_penalty_last_n": 0,
    "max_tokens_second": 0,
    "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "tfs_z", "top_p", "min_p", "xtc", "temperature"],
    "stopping_strings": ["\nUser:"],
    "stop": [f"\nName{number}:" for number in range(24)],
    "truncation_length": 2048,
    "ban_eos_token": False,
    "skip_special_tokens": True,
    "include_reasoning": True,
    "top_a": 0,
    "tfs": 1,
    "mirostat_mode": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
    "custom_token_bans": "",
    "banned_strings": [],
    "api_type": "llamacpp",
    "api_server": "http://127.0.0.1:8080/",
    "xtc_threshold": 0.1,
    "xtc_probability": 0,
    "nsigma": 0,
    "top_n_sigma": 0,
    "min_keep": 0,
    "adaptive_target": -0.01,
    "adaptive_decay": 0.9,
    "rep_pen": 1.2,
    "rep_pen_range": 0,
    "repetition_penalty_range": 0,
    "guidance_scale": 1,
    "negative_prompt": "",
    "repeat_penalty": 1.2,
    "repeat_last_n": 0,
    "n_predict": 4,
    "num_predict": 4,
    "num_ctx": 2048,
    "mirostat": 0,
    "ignore_eos": False,
    "n": 1,
    "rep_pen_slope": 1,
    "logit_bias": [[97, 1.5], [98, False]],
    "grammar": "",
    "cache_prompt": True,
}
#: llama.vim's request for a suggestion, but its parts of the file.
LLAMA_VIM: dict[str, Any] = {
    "n_predict": 128,
    "stop": [],
    "n_indent": 0,
    "top_k": 40,
    "top_p": 0.9,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ],
}
EXTRA = [{"text": "def f(): ...", "time": [1, 2], "filename": "a.py"}]
LLAMA_VSCODE: dict[str, Any] = {
    "n_predict": 128,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
}
#: Both send it ahead of time, so that other files' parts are in the cache.
AHEAD: dict[str, Any] = {
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": EXTRA,
    "prompt": "",
    "n_predict": 0,
    "temperature": 0.0,
    "stream": False,
    "samplers": [],
    "cache_prompt": True,
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
}


def post(server: ServerProcess, route: str, /, **fields: Any) -> Reply:
    return ask(server.port, "POST", route, fields)


def complete(server: ServerProcess, prompt: Any, **fields: Any) -> Any:
    reply = post(server, "/completion", prompt=prompt, **fields)
    assert reply.status == 200, reply.body
    return reply.json()


def streamed(server: ServerProcess, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    """A stream's objects. Each is a chunk of its own, and nothing stands behind the last."""
    reply = post(server, "/completion", prompt=prompt, stream=True, **fields)
    assert reply.header("content-type") == "text/event-stream"
    assert b"[DONE]" not in reply.body
    told: list[dict[str, Any]] = []
    for chunk in reply.chunks:
        assert chunk.startswith(b"data: {"), chunk
        assert chunk.endswith(b"}\n\n"), chunk
        told.append(json.loads(chunk[6:]))
    return told


def test_complete_completion(scripted: ServerProcess) -> None:
    body = complete(scripted, "<say>one\ntwo</say>")
    assert set(body) == FINAL
    assert (body["content"], body["stop_type"], body["stopping_word"]) == ("one\ntwo", "eos", "")
    assert (body["index"], body["stop"], body["tokens"], body["has_new_line"]) == (0, True, [], True)
    assert (body["tokens_predicted"], body["truncated"]) == (8, False)
    assert body["prompt"] == "<say>one\ntwo</say>"
    timings = body["timings"]
    assert timings["predicted_n"] == 8
    assert timings["prompt_n"] + timings["cache_n"] == body["tokens_evaluated"] == 19
    assert timings["predicted_per_second"] == pytest.approx(1000 / timings["predicted_ms"] * 7)
    settings = body["generation_settings"]
    assert (settings["temperature"], settings["top_k"], settings["n_predict"]) == (0.8, 40, -1)
    assert settings["logit_bias"] == []


def test_a_streamed_completion_has_the_same_text(scripted: ServerProcess) -> None:
    *pieces, last = streamed(scripted, "<say>one\nét</say>")
    assert "".join(piece["content"] for piece in pieces) == "one\nét"
    assert all(piece["stop"] is False for piece in pieces)
    assert [token for piece in pieces for token in piece["tokens"]] == list("one\nét".encode())
    assert [piece["tokens_predicted"] for piece in pieces] == [1, 2, 3, 4, 6, 7]
    assert all("timings" not in piece for piece in pieces)
    assert set(last) == FINAL
    assert (last["content"], last["tokens"], last["stop"], last["has_new_line"]) == ("", [], True, True)


def test_what_ends_a_reply(scripted: ServerProcess) -> None:
    assert complete(scripted, "<say>abcdef</say>", n_predict=3)["stop_type"] == "limit"
    body = complete(scripted, "<say>abcdef</say>", stop=["", "de"])
    assert (body["content"], body["stop_type"], body["stopping_word"]) == ("abc", "word", "de")
    assert complete(scripted, "<say>abcdef</say>", max_tokens=2)["content"] == "ab"
    assert complete(scripted, "<say>abcdef</say>", n_predict=-1, max_tokens=2)["content"] == "abcdef"
    assert complete(scripted, "<say>a\n  b\nc</say>", n_indent=2)["content"] == "a\n  b\n"


def test_n_predict_0_computes_the_prompt_and_sends_no_tokens(scripted: ServerProcess) -> None:
    prompt = "ahead of time <say>abc</say>"
    body = complete(scripted, prompt, n_predict=0, return_tokens=True)
    assert (body["content"], body["tokens"], body["tokens_predicted"], body["stop_type"]) == ("", [], 0, "limit")
    assert body["timings"]["predicted_n"] == 0
    assert complete(scripted, prompt)["timings"]["cache_n"] >= len(prompt)
    (last,) = streamed(scripted, prompt, n_predict=0)
    assert last["stop"] is True


@pytest.mark.parametrize(
    "prompt",
    [
        "<say>hi</say>",
        [*b"<say>hi</say>", 257],
        [60, "say>hi</say>", 257],
        {"prompt_string": "<say>hi</say>"},
        {"prompt_string": [60, "say>hi</say>", 257]},
    ],
)
def test_every_form_of_a_prompt(scripted: ServerProcess, prompt: Any) -> None:
    assert complete(scripted, prompt)["content"] == "hi"
    if not (isinstance(prompt, list) and isinstance(prompt[0], int)):
        assert complete(scripted, [prompt])["content"] == "hi"


def test_a_prompt_is_computed_anew_where_that_is_wanted(scripted: ServerProcess) -> None:
    prompt = "twice <say>a</say>"
    assert complete(scripted, prompt)["timings"]["cache_n"] < len(prompt)
    assert complete(scripted, prompt)["timings"]["cache_n"] >= len(prompt)
    assert complete(scripted, prompt, cache_prompt=False)["timings"]["cache_n"] == 0


def test_several_prompts_and_several_replies(scripted: ServerProcess) -> None:
    bodies = complete(scripted, ["<say>a</say>", [*b"<say>b</say>", 257], {"prompt_string": "<say>c</say>"}])
    assert [(body["index"], body["content"]) for body in bodies] == [(0, "a"), (1, "b"), (2, "c")]
    assert [body["prompt"] for body in bodies] == ["<say>a</say>", "<say>b</say><start>", "<say>c</say>"]
    assert [body["content"] for body in complete(scripted, "<say>a</say>", n=2)] == ["a", "a"]
    long = "x" * 20_000 + "<say>a</say>"
    assert [len(body["prompt"]) for body in complete(scripted, long, n=2)] == [len(long), 0]
    told = streamed(scripted, ["<say>a</say>", "<say>b</say>"])
    assert {(piece["index"], piece["content"]) for piece in told if not piece["stop"]} == {(0, "a"), (1, "b")}
    assert sorted(piece["index"] for piece in told if piece["stop"]) == [0, 1]


def test_tokens_probabilities_and_chosen_fields(scripted: ServerProcess) -> None:
    assert complete(scripted, "<say>hé</say>", return_tokens=True)["tokens"] == list("hé".encode())
    body = complete(scripted, "<say>hé</say>", n_probs=2)
    entries = body["completion_probabilities"]
    assert [entry["id"] for entry in entries] == list("hé".encode())
    assert entries[0]["token"] == "h"
    assert entries[0]["bytes"] == [104]
    assert entries[0]["logprob"] <= 0
    assert [len(entry["top_logprobs"]) for entry in entries] == [2, 2, 2]
    assert set(entries[0]["top_logprobs"][0]) == {"id", "token", "bytes", "logprob"}
    *pieces, last = streamed(scripted, "<say>hé</say>", logprobs=1)
    assert [len(piece["completion_probabilities"]) for piece in pieces] == [1, 2]
    assert "completion_probabilities" not in last
    fields = ["content", "generation_settings/n_predict", "timings/prompt_n", "nothing/there", ""]
    told = complete(scripted, "<say>a</say>", n_predict=5, response_fields=fields)
    assert set(told) == set(fields[:3])
    assert told["generation_settings/n_predict"] == 5


def test_timings_and_progress_in_a_stream(slow: ServerProcess) -> None:
    prompt = "z" * 180 + "<say>ab</say>"
    told = streamed(slow, prompt, timings_per_token=True, return_progress=True)
    reports = [piece for piece in told if "prompt_progress" in piece]
    total = len(prompt) + 1
    cached = reports[0]["prompt_progress"]["cache"]
    assert cached < 64, "what other tests' prompts begin with as well"
    told_of = [report["prompt_progress"]["processed"] for report in reports]
    assert told_of == [cached, *range(cached + 64, total, 64), total]
    first = reports[0]["timings"]
    assert (first["prompt_n"], first["prompt_ms"], first["predicted_n"], first["predicted_ms"]) == (0, 0, 0, 0)
    milliseconds = [report["timings"]["prompt_ms"] for report in reports]
    assert milliseconds == sorted(milliseconds)
    assert all(value >= 0 for piece in told for value in piece["timings"].values())


def test_a_prompt_that_is_too_long(scripted: ServerProcess) -> None:
    error = post(scripted, "/completion", prompt="x" * 300_001).json()["error"]
    assert (error["code"], error["type"], error["param"]) == (400, "exceed_context_size_error", "prompt")
    assert "exceeds the available context size" in error["message"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (300_002, 300_000)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [999_999]}, "prompt"),
        ({"prompt": ["a", ["b", {"prompt_string": "c"}]]}, "prompt[1][1]"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": ["aGk="]}}, "prompt.multimodal_data"),
        ({"prompt": "a", "n_predict": -2}, "n_predict"),
        ({"prompt": "a", "n_probs": 21}, "n_probs"),
        ({"prompt": "a", "lora": [{"id": 0, "scale": 0.5}]}, "lora"),
        ({"prompt": "a", "grammar": "root ::= ("}, "grammar"),
        ({"prompt": "a", "grammar_lazy": True}, "grammar_lazy"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "image_data": [{"id": 1, "data": "aGk="}]}, "image_data"),
        ({"prompt": "a", "logit_bias": [[999_999, 1]]}, "logit_bias"),
        ({"prompt": "a", "repeat_penalty": 0}, "repeat_penalty"),
        ({"prompt": "a", "n": 129}, "n"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
    ],
)
def test_what_is_refused_is_named(scripted: ServerProcess, fields: dict[str, Any], param: str) -> None:
    reply = post(scripted, "/completion", **fields)
    error = reply.json()["error"]
    assert (reply.status, error["code"], error["type"], error["param"]) == (400, 400, "invalid_request_error", param)


def test_values_beyond_the_filters_ranges_are_the_nearest_as_in_llama_server(scripted: ServerProcess) -> None:
    settings = complete(scripted, "<say>a</say>", top_k=-1, top_p=1.5, min_p=-1, temperature=-1)["generation_settings"]
    assert [settings[name] for name in ("top_k", "top_p", "min_p", "temperature")] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "bias",
    [[[97, False]], [["a", False]], {"97": False}, {"a": False}, [[97, -100]], [["a", -100]]],
)
def test_every_form_of_a_bias(scripted: ServerProcess, bias: Any) -> None:
    """The scripted model says ``a`` unless that can't be."""
    body = complete(scripted, "<say>a</say>", logit_bias=bias, n_predict=1, temperature=0)
    assert body["content"] != "a"
    (entry,) = body["generation_settings"]["logit_bias"]
    assert entry["token"] == 97


def test_end_tokens_are_banned_where_they_are_to_be_ignored(scripted: ServerProcess) -> None:
    body = complete(scripted, "<say>a</say>", ignore_eos=True, n_predict=3)
    assert body["generation_settings"]["logit_bias"] == [{"token": 256, "bias": None}]
    assert body["stop_type"] == "limit"


def test_grammars_and_schemas(scripted: ServerProcess) -> None:
    assert complete(scripted, "<say>yes</say>", grammar='root ::= "no"')["content"] == "no"
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    assert json.loads(complete(scripted, "<say>{</say>", json_schema=schema)["content"]) == {"a": 1}
    assert complete(scripted, "<say>{}</say>", json_schema={})["content"] == "{}"
    assert complete(scripted, "<say>yes</say>", grammar="")["content"] == "yes"


def test_probabilities_after_sampling(scripted: ServerProcess) -> None:
    body = complete(scripted, "<say>ab</say>", n_probs=3, post_sampling_probs=True)
    for entry in body["completion_probabilities"]:
        assert entry["prob"] == pytest.approx(1.0)
        assert [other["id"] for other in entry["top_probs"]] == [entry["id"]], "the others can't be drawn"


def test_samplers_and_their_order(scripted: ServerProcess) -> None:
    settings = complete(scripted, "<say>a</say>", samplers="kt", typical_p=0.5, mirostat=2)["generation_settings"]
    assert (settings["samplers"], settings["typical_p"], settings["mirostat"]) == (["top_k", "temperature"], 0.5, 2)
    error = post(scripted, "/completion", prompt="a", samplers=["nonsense"]).json()["error"]
    assert error["param"] == "samplers[0]"


def test_silly_tavern(scripted: ServerProcess) -> None:
    assert complete(scripted, "<say>acd</say>", **SILLY_TAVERN)["content"] == "acd"
    told = streamed(scripted, "<say>acd</say>", **SILLY_TAVERN, n_probs=10, logprobs=10)
    assert "".join(piece["content"] for piece in told) == "acd"
    props = ask(scripted.port, "GET", "/props").json()
    assert isinstance(props["chat_template"], str)
    models = ask(scripted.port, "GET", "/v1/models").json()
    assert models["data"][0]["id"] == "fake"
    tokens = post(scripted, "/tokenize", content="abc").json()["tokens"]
    assert tokens == [97, 98, 99]


@pytest.mark.parametrize("client", [LLAMA_VIM, LLAMA_VSCODE])
def test_editors_completion(scripted: ServerProcess, client: dict[str, Any]) -> None:
    file = {"input_prefix": "import os\n<say>x = 1</say>\n", "input_suffix": "\n\n", "input_extra": EXTRA}
    reply = post(scripted, "/infill", **file, prompt="", **client)
    assert reply.status == 200, reply.body
    body = reply.json()
    assert body["content"] == "x = 1"
    if "response_fields" in client:
        assert set(body) == set(client["response_fields"])
        assert body["timings/predicted_n"] == 6
    for ahead in (AHEAD, {**AHEAD, "response_fields": [""]}):
        told = post(scripted, "/infill", **ahead).json()
        assert told == {} if "response_fields" in ahead else told["content"] == ""


def test_the_parts_of_a_prompt_with_a_gap(scripted: ServerProcess) -> None:
    fields = {"n_predict": 1, "response_fields": ["prompt"]}
    body = post(
        scripted, "/infill", input_prefix="P<end>", input_suffix=["S", 33], input_extra=EXTRA, prompt="M", **fields
    ).json()
    assert body["prompt"] == "\n\n--- snippet ---\n\ndef f(): ...<prefix>P<end>M<suffix>S!<middle>"


@pytest.mark.parametrize("extra", [{}, {"filename": "ok"}, {"filename": 123, "text": "abc"}, {"text": 456}])
def test_other_files_parts_have_a_text(scripted: ServerProcess, extra: dict[str, Any]) -> None:
    reply = post(scripted, "/infill", input_prefix="", input_suffix="", input_extra=[extra])
    assert reply.status == 400
    assert reply.json()["error"]["param"].startswith("input_extra[0]")


def test_models_without_tokens_for_a_gap_say_so(real: ServerProcess) -> None:
    reply = post(real, "/infill", input_prefix="a", input_suffix="b")
    assert (reply.status, reply.json()["error"]["type"]) == (501, "not_supported_error")


def test_properties(real: ServerProcess) -> None:
    props = ask(real.port, "GET", "/props").json()
    assert props["total_slots"] == 4
    assert props["default_generation_settings"]["n_ctx"] == 2048
    assert props["default_generation_settings"]["params"]["temperature"] == 0.8
    assert props["model_path"].endswith(".gguf")
    assert "/" not in props["model_path"]
    assert (props["bos_token"], props["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>" in props["chat_template"]


def test_slots_show_running_requests_without_their_text(slow: ServerProcess) -> None:
    (slot,) = ask(slow.port, "GET", "/slots").json()
    assert slot == {"id": 0, "n_ctx": slot["n_ctx"], "speculative": True, "is_processing": False}
    assert ask(slow.port, "GET", "/slots?fail_on_no_slot=1").status == 200


def test_a_place_that_is_taken_shows_how_many_tokens_its_reply_has(slow: ServerProcess) -> None:
    body = {"prompt": "secret <say>" + "x" * 300 + "</say>", "stream": True}
    with Connection(slow.port) as connection:
        connection.request("POST", "/completion", body)
        connection.read_head()
        wait_for(
            "tokens", lambda: ask(slow.port, "GET", "/slots").json()[0].get("next_token", [{}])[0].get("n_decoded")
        )
        reply = ask(slow.port, "GET", "/slots")
        assert reply.json()[0]["is_processing"] is True
        assert b"secret" not in reply.body
        assert ask(slow.port, "GET", "/slots?fail_on_no_slot=1").json()["error"]["type"] == "unavailable_error"
    wait_for("the end", lambda: not ask(slow.port, "GET", "/slots").json()[0]["is_processing"])


def test_a_silent_stream_has_comments_unless_disabled(slow: ServerProcess) -> None:
    """2,000 tokens, 64 a step of 20 ms: silent for longer than the server's 0.3 s."""
    for interval, comments in ((0, True), (-1, False)):
        prompt = f"{interval}" + "q" * 2000 + "<say>a</say>"
        reply = post(slow, "/completion", prompt=prompt, stream=True, sse_ping_interval=interval)
        assert any(chunk.startswith(b":") for chunk in reply.chunks) is comments


def test_models_are_listed_in_both_forms(real: ServerProcess) -> None:
    body = ask(real.port, "GET", "/v1/models").json()
    (model,) = body["models"]
    assert (model["name"], model["capabilities"]) == (body["data"][0]["id"], ["completion"])
    assert {"n_ctx", "n_ctx_train", "n_embd", "n_params", "n_vocab", "size"} <= set(body["data"][0]["meta"])


def test_embeddings(scripted: ServerProcess) -> None:
    body = post(scripted, "/embedding", content=["a", "b"]).json()
    assert [entry["index"] for entry in body] == [0, 1]
    assert [len(vector) for entry in body for vector in entry["embedding"]] == [16, 16]
    assert post(scripted, "/embedding", input="a").json()[0]["embedding"] == body[0]["embedding"]
    assert post(scripted, "/embedding", content="a", embd_normalize=-1).json()["error"]["param"] == "embd_normalize"
    assert post(scripted, "/embedding").json()["error"]["param"] == "content"
    assert post(scripted, "/embedding", content=["a", ""]).json()["error"]["param"] == "content"
    mixed = post(scripted, "/embedding", content=["a", [97], {"prompt_string": "a"}, {"prompt_string": [97]}]).json()
    assert len({str(entry["embedding"]) for entry in mixed}) <= 2, "as text, with what a text ends with, and as ids"
    assert mixed[0]["embedding"] == mixed[2]["embedding"]


def test_adapters_and_unsupported_routes(scripted: ServerProcess) -> None:
    assert ask(scripted.port, "GET", "/lora-adapters").json() == []
    assert ask(scripted.port, "POST", "/lora-adapters", []).json() == {"success": True}
    assert ask(scripted.port, "POST", "/lora-adapters", [{"id": 0, "scale": 1.0}]).status == 400
    for route in ("/props", "/slots/0?action=erase"):
        reply = ask(scripted.port, "POST", route, {})
        assert (reply.status, reply.json()["error"]["type"]) == (501, "not_supported_error")


def test_a_key_is_required(keyed: ServerProcess) -> None:
    for method, route in (("POST", "/completion"), ("GET", "/props"), ("GET", "/slots"), ("POST", "/infill")):
        reply = ask(keyed.port, method, route, {} if method == "POST" else None)
        assert (reply.status, reply.json()["error"]["type"]) == (401, "authentication_error")


def test_the_starter_model_completes(real: ServerProcess) -> None:
    body = complete(real, "The capital of France is", n_predict=8, temperature=0, n_probs=3, return_tokens=True)
    assert body["tokens_predicted"] == len(body["tokens"]) == 8
    assert len(body["completion_probabilities"]) == 8
    *pieces, _ = streamed(real, "The capital of France is", n_predict=8, temperature=0)
    assert "".join(piece["content"] for piece in pieces) == body["content"]
    tokens = post(real, "/tokenize", content="The capital of France is").json()["tokens"]
    again = complete(real, tokens, n_predict=8, temperature=0)
    assert again["content"] == body["content"]
    assert again["prompt"] == "The capital of France is"
