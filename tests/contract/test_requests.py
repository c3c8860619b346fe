"""What requests may say: every field's right and wrong values."""

from __future__ import annotations

import msgspec
import pytest

from openai_requests import USER, ask_chat, ask_completion
from openai_wire import Reply
from servers import ServerProcess
from tailrace.server.dialects.openai.chat import ChatRequest
from tailrace.server.dialects.openai.completions import CompletionRequest

HUGE = 10**30

#: Wrong types and values out of range, for each field that both requests know.
SHARED: dict[str, list[object]] = {
    "model": [1, ["fake"], {}, True],
    "stream": ["true", 1, []],
    "stream_options": [True, "usage", [], {"include_usage": 1}, {"continuous_usage_stats": True}],
    "n": [0, -1, 129, "1", 1.5, True, HUGE],
    "max_tokens": [0, -2, 2**31, "5", 1.5, True, [], HUGE],
    "stop": [1, [1], {}, [None], ["a"] * 1025, "x" * 1025, ["x" * 1000 + str(n) for n in range(17)], True],
    "seed": ["1", 1.5, 9223372036854776001, -9223372036854776001, HUGE, True],
    "temperature": [-0.1, 100.1, "1", True, [], HUGE],
    "top_p": [-0.1, 1.1, "1", True],
    "frequency_penalty": [-2.1, 2.1, "0", False],
    "presence_penalty": [-2.1, 2.1, "0", False],
    "logit_bias": [
        [1],
        "a",
        [["a", 1]],
        [[1]],
        {"1": True},
        {"a": 1},
        {"1": "a"},
        {"1": 101},
        {"1": -101},
        {"99999": 1},
        {"-1": 1},
        {str(HUGE): 1},
    ],
    "user": [1, {}, True],
    "top_k": [-2, "1", 1.5, HUGE],
    "min_p": [-0.1, 1.1, "0"],
    "repeat_penalty": [0, 5e-324, -1, 10.1, "1"],
    "repetition_penalty": [0, 5e-324, -1, 10.1, "1"],
    "repeat_last_n": [-2, "1", 1.5, HUGE],
    "penalty_last_n": [-2, "1", 1.5, HUGE],
    "typical_p": [-0.1, 1.1, "1", True],
    "typ_p": [-0.1, 1.1, "1"],
    "top_n_sigma": [-1001, 1001, "1", []],
    "xtc_probability": [-0.1, 1.1, "0"],
    "xtc_threshold": [-0.1, 1.1, "0"],
    "dynatemp_range": [-0.1, 101, "0"],
    "dynatemp_exponent": [-0.1, 101, "1"],
    "dry_multiplier": [-0.1, 1001, "1"],
    "dry_base": [-0.1, 1001, "1"],
    "dry_allowed_length": [-1, 1.5, "1", HUGE],
    "dry_penalty_last_n": [-2, 1.5, "1", HUGE],
    "dry_sequence_breakers": [[], "a", '["a"]', [1], [None], ["a"] * 33, ["x" * 1025]],
    "mirostat": [-1, 3, 1.5, "1", True],
    "mirostat_tau": [-0.1, 1001, "5"],
    "mirostat_eta": [-0.1, 1001, "0.1"],
    "adaptive_target": [-1001, 1.1, "0"],
    "adaptive_decay": [-0.1, 1.0, "0"],
    "min_keep": [-1, 1.5, "1", HUGE],
    "penalize_nl": [1, "true"],
    "samplers": [1, {}, "kz", "K", "k" * 17, ["top_k", "nothing"], [1], [None], ["top_k"] * 17, ["x" * 33]],
    "stop_token_ids": [1, ["1"], [1.5], [1] * 257, {}, [HUGE], [-HUGE], [-1], [99999]],
    "ignore_eos": ["true", 1],
    "priority": ["high", 1.5, 2**31],
    "timings_per_token": ["true", 1],
    "return_progress": ["true", 1],
    "response_format": [
        "text",
        1,
        {},
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a"}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"uniqueItems": True}, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": [1]}},
    ],
    "structured_outputs": ["a", [], {"json": 1}, {"choice": []}, {"regex": "("}, {"json_object": 1}, {"grammar": "x"}],
    "guided_json": [1, [], "", "{", {"type": "nothing"}, {"anyOf": {}}],
    "guided_regex": [1, "", "(", "(?=a)"],
    "guided_choice": ["a", [], [1], [""]],
    "guided_grammar": [1, "", "hello", "start: other", 'root ::= "'],
    "grammar": [1, "", "root ::= other"],
    "json_schema": ["{}", [], {"type": "string", "minLength": "3"}],
}
OF_CHAT: dict[str, list[object]] = {
    "messages": [[], "hi", {}, None, ["hi"], [None], 1],
    "max_completion_tokens": [0, -2, "5", 1.5, True, HUGE],
    "logprobs": [1, "true"],
    "top_logprobs": [-1, 21, "1", 5],
    "tools": [
        {},
        "a",
        [1],
        [{"type": "function"}],
        [{"type": "custom"}],
        [{"type": "custom", "custom": {}}],
        [{"type": "code", "function": {"name": "a"}}],
    ],
    "tool_choice": [
        "required",
        "any",
        "other",
        1,
        [],
        {},
        {"type": "x"},
        {"type": "function"},
        {"type": "function", "function": {"name": "a"}},
        {"type": "custom", "custom": {"name": "a"}},
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": [{"name": "a"}]}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"name": "a"}]}},
    ],
    "parallel_tool_calls": [1, "true"],
    "reasoning_effort": [1, {}],
    "chat_template_kwargs": [[], "a", 1],
    "enable_thinking": ["false", 1, {}],
    "thinking": ["disabled", 1, {"type": "perhaps"}, {"type": "enabled", "budget_tokens": -2}],
    "reasoning": ["high", 1, {"effort": 1}, {"enabled": "no"}],
    "thinking_budget": ["1", -2, 1.5],
    "reasoning_budget": ["1", -2, 1.5],
    "add_generation_prompt": ["true", 1],
    "continue_final_message": ["yes", 1, {}],
    "modalities": ["text", ["audio"], [1], 1],
    "metadata": [[], "a"],
    "service_tier": [1, {}],
    "prediction": [
        "a",
        [],
        {},
        {"type": "content"},
        {"type": "x", "content": "a"},
        {"type": "content", "content": [1]},
    ],
    "safety_identifier": [1],
    "prompt_cache_key": [1],
    "store": [1, "true"],
    "verbosity": [1, "loud"],
    "prompt_cache_options": [1, "a"],
    "prompt_cache_retention": [1],
    "moderation": [1, {"model": "a"}],
    "reasoning_format": [1, "other", "deepseek-legacy"],
    "include_reasoning": [1, "true"],
    "documents": ["a", [1], [{"text": "a"}]],
    "chat_template": [1, "", "{{ messages }}"],
    "echo": [1, True],
    "best_of": ["1", 2, 0],
    "generation_prompt": [1, "a"],
    "parse_tool_calls": [1, False],
    "audio": ["a", {"voice": "x"}],
    "web_search_options": ["a", {}],
    "functions": ["a", [1], [{}], [{"name": ""}], [{"name": "f", "parameters": "a"}]],
    "function_call": [1, [], "required", {}, {"name": "f"}, {"name": 1}],
}
OF_COMPLETIONS: dict[str, list[object]] = {
    "prompt": [1, {}, [], None, True, [1.5], [1, "a"], [[1], "a"], [["a"]], [-1], [99999], [HUGE], [[HUGE]], [[]]],
    "logprobs": [-1, 21, "1", True],
    "echo": [1, "a"],
    "suffix": [1, []],
    "best_of": [0, 129, "1", 1.5, True],
    "prompt_embeds": ["a", [1.0]],
}
#: Fields of llama-server's and vLLM's that both requests know.
OF_PEERS: dict[str, list[object]] = {
    "n_predict": [0, -2, "1", 1.5],
    "n_cmpl": [0, 129, "1"],
    "n_probs": [-1, 21, "1"],
    "cache_prompt": [1, "true"],
    "sse_ping_interval": [-2, "1", 1.5],
    "id_slot": ["1", 1.5],
    "n_keep": ["1", 1.5],
    "n_discard": ["1", 1.5],
    "n_cache_reuse": ["1", 1.5],
    "backend_sampling": [1],
    "verbose": [1, True],
    "n_indent": ["1", 2],
    "t_max_predict_ms": ["1", 100],
    "response_fields": ["a", ["content"]],
    "lora": ["a", [{"id": 0, "scale": 1}]],
    "post_sampling_probs": [1, True],
    "return_tokens": [1, True],
    "preserved_tokens": ["a", ["<x>"]],
    "grammar_lazy": [1, True],
    "grammar_triggers": ["a", [{"type": "word", "value": "x"}]],
    "reasoning_budget_tokens": ["1", 100],
    "thinking_budget_tokens": ["1", 100],
    "reasoning_budget_message": [1, "a"],
    "reasoning_control": [1, True],
    "reasoning_budget_start_tag": [1, "<think>"],
    "reasoning_budget_end_tag": [1, "</think>"],
    "reasoning_budget_end_tags": ["a", ["</think>"]],
    "chat_format": [1, "x"],
    "chat_parser": [1, "x"],
    "t_max_prompt_ms": ["1", 1.5],
    "include_stop_str_in_output": [1],
    "request_id": [1, "x" * 1025],
    "spaces_between_special_tokens": [1],
    "guided_decoding_backend": [1],
    "use_beam_search": [1, True],
    "length_penalty": ["1", 2],
    "min_tokens": ["1", -1, 1.5],
    "skip_special_tokens": [1, False],
    "truncate_prompt_tokens": ["1", -1, 10],
    "truncation_side": [1, "up"],
    "prompt_logprobs": ["1", 0, 5],
    "allowed_token_ids": ["a", [1]],
    "bad_words": ["a", ["b"]],
    "mm_processor_kwargs": ["a", {"a": 1}],
    "media_io_kwargs": ["a", {"a": 1}],
    "logits_processors": ["a", ["b"]],
    "return_tokens_as_token_ids": [1, True],
    "return_token_ids": [1, True],
    "cache_salt": [1, "a"],
    "kv_transfer_params": ["a", {"a": 1}],
    "vllm_xargs": ["a", {"a": 1}],
    "repetition_detection": ["a", {"a": 1}],
    "max_repetition_pattern_size": ["1", 2],
    "min_repetition_pattern_size": ["1", 2],
    "repetition_min_count": ["1", 2],
    "thinking_token_budget": ["1", 0, 100],
    "guided_whitespace_pattern": [1, " "],
}
SHARED |= OF_PEERS | {"timings_per_token": [1, "true"], "return_progress": [1, "true"]}
OF_CHAT |= {"add_special_tokens": [1, True]}
OF_COMPLETIONS |= {"add_special_tokens": [1]}


def test_no_field_is_left_out_here() -> None:
    assert set(SHARED) | set(OF_CHAT) == {field.name for field in msgspec.structs.fields(ChatRequest)}
    assert set(SHARED) | set(OF_COMPLETIONS) == {field.name for field in msgspec.structs.fields(CompletionRequest)}


@pytest.mark.parametrize(("name", "values"), [*SHARED.items(), *OF_CHAT.items()], ids=lambda value: str(value)[:20])
def test_a_wrong_value_in_a_chat_is_a_400_that_names_the_field(
    scripted: ServerProcess, name: str, values: list[object]
) -> None:
    for value in values:
        for stream in (False, True):
            reply = ask_chat(scripted, **{"stream": stream, name: value})
            refused(reply, name, value)


@pytest.mark.parametrize(
    ("name", "values"), [*SHARED.items(), *OF_COMPLETIONS.items()], ids=lambda value: str(value)[:20]
)
def test_a_wrong_value_in_a_completion_is_a_400_that_names_the_field(
    scripted: ServerProcess, name: str, values: list[object]
) -> None:
    for value in values:
        refused(ask_completion(scripted, **{name: value}), name, value)


def refused(reply: Reply, name: str, value: object) -> None:
    assert reply.status == 400, (name, value, reply.body)
    error = reply.error()
    assert error["type"] == "invalid_request_error"
    param = str(error["param"])
    assert param.replace("[", ".").split(".")[0] == name, (value, error)
    assert name in error["message"], error


def test_null_is_absent_and_unknown_fields_are_ignored(scripted: ServerProcess) -> None:
    known = {*SHARED, *OF_CHAT} - {"messages"}
    reply = ask_chat(scripted, **dict.fromkeys(known), unknown={"a": [None]}, mirostats=2)
    assert reply.json()["choices"][0]["message"]["content"] == "ok"
    known = {*SHARED, *OF_COMPLETIONS} - {"prompt"}
    assert ask_completion(scripted, **dict.fromkeys(known), unheard_of=True).json()["choices"][0]["text"] == "ok"
    for name in {*SHARED, *OF_CHAT} - {"messages"}:
        assert ask_chat(scripted, **{name: None}).status == 200, name


def test_null_is_absent_inside_of_fields(scripted: ServerProcess) -> None:
    function = {"name": "f", "description": None, "parameters": None, "strict": None}
    call = {"function": {"name": "f", "arguments": "{}"}, "id": None, "type": None}
    messages: list[dict[str, object]] = [
        {**USER, "name": None, "tool_calls": None, "tool_call_id": None, "reasoning_content": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "x", "tool_call_id": None},
    ]
    reply = ask_chat(
        scripted,
        messages=messages,
        tools=[{"type": "function", "function": function}],
        stream_options={"include_usage": None},
    )
    assert reply.status == 200, reply.body


def test_right_values_at_the_edges(scripted: ServerProcess) -> None:
    edges: dict[str, list[object]] = {
        "n": [1, 128],
        "max_tokens": [1, 2**31 - 1, -1],
        "max_completion_tokens": [-1],
        "n_predict": [-1, 1],
        "stop": ["z", ["z"] * 16, [], "z" * 1024, "", ["", "z"], [f"\n{n}:" for n in range(1024)]],
        "seed": [-9223372036854776000, 9223372036854776000, -1, 0],
        "temperature": [0, 2, 2.1, 100, 1e-9],
        "top_p": [0, 1],
        "frequency_penalty": [-2, 2],
        "presence_penalty": [-2, 2],
        "logit_bias": [{}, {"1": -100}, {"257": 0.5}, [], [[1, 0.5], [2, False]], {"1": False}],
        "verbosity": ["low", "medium", "high"],
        "reasoning_format": ["none", "auto", "deepseek"],
        "include_reasoning": [True, False],
        "top_k": [-1, 0, 2**31 - 1],
        "min_p": [0, 1],
        "repeat_penalty": [0.01, 10],
        "repeat_last_n": [-1, 0, 2**31 - 1],
        "typical_p": [0, 0.7, 1],
        "top_n_sigma": [-1, 0, 1.5],
        "xtc_probability": [0, 1],
        "xtc_threshold": [0, 1],
        "dynatemp_range": [0, 100],
        "dynatemp_exponent": [0, 100],
        "dry_multiplier": [0, 0.8, 1000],
        "dry_base": [0, 1, 1000],
        "dry_allowed_length": [0, 2**31 - 1],
        "dry_penalty_last_n": [-1, 0, 2**31 - 1],
        "dry_sequence_breakers": [["\n"], [""], ["x" * 1024], ["ab"] * 32],
        "mirostat": [0, 1, 2],
        "mirostat_tau": [0, 1000],
        "mirostat_eta": [0, 1000],
        "adaptive_target": [-1, 0, 1],
        "adaptive_decay": [0, 0.99],
        "min_keep": [0, 2**31 - 1],
        "samplers": [[], "", "edskypmxt", "kfypmt", ["Top-K", "typical_p", "tfs_z", "temp"], ["xtc"] * 16, "ia"],
        "stop_token_ids": [[], [1] * 256],
        "tools": [[]],
        "tool_choice": ["auto", "none"],
        "modalities": [["text"]],
        "response_format": [{"type": "text"}],
        "chat_template_kwargs": [{"enable_thinking": False, "messages": "mine", "raise_exception": 1}],
        "store": [False, True],
        "functions": [[]],
    }
    for name, values in edges.items():
        for value in values:
            assert ask_chat(scripted, **{name: value}).status == 200, (name, value)


def test_every_sampler_is_honoured(scripted: ServerProcess) -> None:
    """The scripted tokens are so far ahead that no order of samplers chooses others; DRY forbids one all the same."""
    for fields in (
        {"typical_p": 0.5, "temperature": 2.5, "top_k": 0},
        {"mirostat": 1, "mirostat_tau": 3.0, "mirostat_eta": 0.2},
        {"mirostat": 2, "seed": 3},
        {"xtc_probability": 1, "dynatemp_range": 0.5, "min_keep": 3, "top_n_sigma": 1.0},
        {"samplers": ["penalties", "dry", "min_p", "infill", "adaptive_p"], "adaptive_target": 0.9},
        {"samplers": "edskypmxt", "repeat_penalty": 1.1, "penalize_nl": False, "penalty_last_n": 3},
    ):
        assert ask_completion(scripted, **fields).json()["choices"][0]["text"] == "ok", fields
    dry = {"dry_multiplier": 1000, "dry_allowed_length": 1, "dry_base": 1, "dry_penalty_last_n": -1}
    said = ask_completion(scripted, prompt="<say>ok</say>", temperature=0, **dry).json()["choices"][0]["text"]
    assert said != "ok", "k follows o in the prompt already"
    broken = ask_completion(scripted, temperature=0, dry_sequence_breakers=["k"], **dry).json()["choices"][0]["text"]
    assert broken == "ok", "a breaker is never forbidden"


def test_sampling_fields_do_something(scripted: ServerProcess) -> None:
    """logit_bias can forbid what the script says next; a stop token ends it."""
    biased = ask_completion(scripted, logit_bias={"111": -100}).json()["choices"][0]["text"]
    assert biased != "ok"
    assert ask_completion(scripted, stop_token_ids=[ord("k")]).json()["choices"][0]["text"] == "o"
    endless = ask_completion(scripted, ignore_eos=True, max_tokens=9).json()
    assert endless["choices"][0]["finish_reason"] == "length"
    assert endless["usage"]["completion_tokens"] == 9
