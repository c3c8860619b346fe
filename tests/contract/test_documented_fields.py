"""The tables of docs/parameters.md, sent: what is honoured or accepted is answered, what is refused is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from openai_wire import ask, chat, say
from servers import ServerProcess

DOCUMENT = (Path(__file__).parents[2] / "docs" / "parameters.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTION = {"name": "f", "parameters": SCHEMA}
#: Values by which each field says something: what is refused is refused for them, all else is answered.
VALUES: dict[str, Any] = {
    "adaptive_decay": 0.5,
    "adaptive_target": -1,
    "add_generation_prompt": True,
    "add_special_tokens": None,
    "allowed_token_ids": [],
    "audio": {"voice": "a", "format": "wav"},
    "backend_sampling": True,
    "bad_words": [],
    "best_of": 1,
    "cache_prompt": False,
    "cache_salt": "salt",
    "chat_format": 1,
    "chat_parser": "",
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": False},
    "continue_final_message": False,
    "documents": [],
    "dry_allowed_length": 2,
    "dry_base": 1.75,
    "dry_multiplier": 0.5,
    "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ["\n"],
    "dynatemp_exponent": 1.0,
    "dynatemp_range": 0.5,
    "echo": None,
    "enable_thinking": False,
    "frequency_penalty": 0.5,
    "function_call": "none",
    "functions": [FUNCTION],
    "generation_prompt": "",
    "grammar": 'root ::= "ok"',
    "grammar_lazy": False,
    "grammar_triggers": [],
    "guided_choice": ["ok", "no"],
    "guided_decoding_backend": "auto",
    "guided_grammar": 'root ::= "ok"',
    "guided_json": SCHEMA,
    "guided_regex": "ok",
    "guided_whitespace_pattern": "[ ]?",
    "id_slot": 0,
    "ignore_eos": False,
    "include_reasoning": False,
    "include_stop_str_in_output": True,
    "json_schema": SCHEMA,
    "kv_transfer_params": {},
    "length_penalty": 1.0,
    "logit_bias": {"1": 2},
    "logits_processors": [],
    "logprobs": None,
    "lora": [],
    "max_completion_tokens": 5,
    "max_repetition_pattern_size": 0,
    "max_tokens": 5,
    "media_io_kwargs": {},
    "messages": None,
    "metadata": {"a": "b"},
    "min_keep": 1,
    "min_p": 0.1,
    "min_repetition_pattern_size": 0,
    "min_tokens": 3,
    "mirostat": 2,
    "mirostat_eta": 0.1,
    "mirostat_tau": 5.0,
    "mm_processor_kwargs": {},
    "modalities": ["text"],
    "model": "fake",
    "n": 2,
    "n_cache_reuse": 256,
    "n_cmpl": 2,
    "n_discard": 5,
    "n_indent": 0,
    "n_keep": 5,
    "n_predict": 5,
    "n_probs": 2,
    "parallel_tool_calls": False,
    "parse_tool_calls": True,
    "penalize_nl": True,
    "penalty_last_n": 64,
    "post_sampling_probs": False,
    "prediction": {"type": "content", "content": "ok"},
    "presence_penalty": 0.5,
    "preserved_tokens": [],
    "priority": 1,
    "prompt": None,
    "moderation": {"model": "a"},
    "prompt_cache_key": "a",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "prompt_embeds": "AAAA",
    "prompt_logprobs": 1,
    "reasoning": {"effort": "low"},
    "reasoning_budget": -1,
    "reasoning_budget_message": "",
    "reasoning_budget_tokens": -1,
    "reasoning_budget_end_tag": "",
    "reasoning_budget_end_tags": [],
    "reasoning_budget_start_tag": "",
    "reasoning_control": False,
    "reasoning_effort": "low",
    "reasoning_format": "none",
    "repeat_last_n": 64,
    "repeat_penalty": 1.1,
    "repetition_detection": {},
    "repetition_min_count": 0,
    "repetition_penalty": 1.1,
    "request_id": "mine",
    "response_fields": [],
    "response_format": {"type": "json_object"},
    "return_progress": True,
    "return_token_ids": False,
    "return_tokens": False,
    "return_tokens_as_token_ids": False,
    "safety_identifier": "a",
    "samplers": ["top_k", "temperature"],
    "seed": 1,
    "service_tier": "auto",
    "skip_special_tokens": True,
    "spaces_between_special_tokens": False,
    "sse_ping_interval": 5,
    "stop": ["a"],
    "stop_token_ids": [1],
    "store": True,
    "stream": False,
    "stream_options": {"include_usage": True},
    "structured_outputs": {"choice": ["ok"]},
    "suffix": "",
    "t_max_predict_ms": 0,
    "t_max_prompt_ms": 100,
    "temperature": 0.5,
    "thinking": {"type": "disabled"},
    "thinking_budget": 100,
    "thinking_budget_tokens": -1,
    "thinking_token_budget": 5,
    "timings_per_token": True,
    "tool_choice": "none",
    "tools": [{"type": "function", "function": FUNCTION}],
    "top_k": 10,
    "top_logprobs": 0,
    "top_n_sigma": 1.0,
    "top_p": 0.5,
    "truncate_prompt_tokens": 5,
    "truncation_side": "left",
    "typ_p": 0.9,
    "typical_p": 0.9,
    "use_beam_search": False,
    "user": "me",
    "verbose": False,
    "verbosity": "low",
    "vllm_xargs": {},
    "web_search_options": {},
    "xtc_probability": 0.1,
    "xtc_threshold": 0.1,
}
OF_EMBEDDINGS: dict[str, Any] = {
    "input": ["a", "b"],
    "dimensions": 4,
    "encoding_format": "base64",
    "pooling": "last",
    "embd_normalize": 2,
    "normalize": True,
    "embed_dtype": "float32",
    "endianness": "little",
    "add_special_tokens": True,
    "cache_salt": "salt",
    "messages": [{"role": "user", "content": "a"}],
}
OF_RERANKING: dict[str, Any] = {
    "query": "a",
    "documents": ["a", {"text": "b"}],
    "texts": ["a"],
    "top_n": 1,
    "return_documents": False,
    "rank_fields": ["text"],
    "max_tokens_per_doc": 5,
    "max_chunks_per_doc": 1,
    "truncate": True,
    "truncation": True,
    "truncation_direction": "Left",
    "truncate_prompt_tokens": -1,
    "raw_scores": True,
    "use_activation": False,
    "activation": False,
    "return_text": True,
    "instruction": "Judge",
}
ROUTES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Chat completions alone": (
        "/v1/chat/completions",
        chat(say("ok"), max_tokens=20),
        {"logprobs": True, "messages": chat("a")["messages"], "echo": False, "add_special_tokens": False},
    ),
    "Text completions alone": (
        "/v1/completions",
        {"prompt": say("ok"), "max_tokens": 20},
        {"logprobs": 2, "prompt": "a", "echo": True, "add_special_tokens": False, "best_of": 2},
    ),
    "Embeddings": ("/v1/embeddings", {"input": "a"}, OF_EMBEDDINGS),
    "Reranking": ("/v1/rerank", {"query": "a", "documents": [{"text": "a"}]}, OF_RERANKING),
}


def rows(heading: str) -> dict[str, str]:
    """For each field of the route its row's last column."""
    alone = heading in ("Embeddings", "Reranking")
    text = SECTIONS[heading] if alone else SECTIONS["Chat and text completions"] + SECTIONS[heading]
    return {
        name: row.rstrip(" |").rsplit("| ", 1)[-1] for name, row in re.findall(r"^\| `(\w+)`(.*)$", text, re.MULTILINE)
    }


CASES = [(heading, name, what) for heading in ROUTES for name, what in rows(heading).items()]


@pytest.mark.parametrize(("heading", "name", "what"), CASES, ids=[f"{h.split()[0]}-{n}" for h, n, _ in CASES])
def test_the_documented_row_matches_the_behaviour(scripted: ServerProcess, heading: str, name: str, what: str) -> None:
    path, body, own = ROUTES[heading]
    value = own.get(name, VALUES.get(name))
    assert value is not None, f"say in VALUES what is sent for '{name}'"
    if name == "texts":
        body = {"query": "a"}
    reply = ask(scripted.port, "POST", path, {**body, name: value})
    if what.startswith("refused"):
        assert (reply.status, reply.error()["param"]) == (400, name), reply.body
    else:
        assert reply.status == 200, reply.body
