"""Which of llama.cpp's server tests don't pass here, and why. docs/conformance.md has the same as a table.

Names are ``module::test``, with ``*`` for anything and round brackets around parameters.
"""

from __future__ import annotations

#: Modules that are left out.
UNRUN: dict[str, str] = {
    "test_compat_gcp": "routes of Google's Vertex AI in front of a server",
    "test_kv_keep_only_active": "what its log says of its own slots",
    "test_lora": "LoRA adapters aren't supported",
    "test_mcp_servers": "MCP servers aren't started here",
    "test_proxy": "its proxy for tools in its web page",
    "test_rerank": "needs a trained reranker",
    "test_router": "wants the router's own start: models of the hub, and a limit by their number",
    "test_sleep": "a server's only model isn't unloaded when it is idle",
    "test_slot_save": "slots aren't saved by clients: prefixes are found again by themselves",
    "test_speculative": "needs a draft model of its test models",
    "test_stream": "streams of its web page that can be resumed",
    "test_tools_builtin": "tools that its server runs itself",
    "test_vision_api": "models that see aren't supported",
}

_COUNTS = "counts tokens of its test model's tokenizer"
_WORDS = "rests on how long its test model writes"
_FIRST_CHUNK = "wants null as the first chunk's content, which clients refuse: wire rule 18"
_OPTIONS = "a preflight is answered with 204, not 200"
_NATIVE = "wants the native form on /completions, which is OpenAI's here; /completion has it"
_FINGERPRINT = "wants a system_fingerprint of llama.cpp's build; ours tells model and settings"
_VERBOSE = "wants the prompt in __verbose; /apply-template tells it"
_EMBEDDING = "a form of input that OpenAI's route doesn't have"
_IMAGE = "models that see aren't supported: an image is a 400"
_OVERFLOW = "OpenAI's routes have OpenAI's type and code; the numbers are there"
_START = "wants its test model's start token; this one has none"

#: Tests that run and are known to fail.
MISSES: dict[str, str] = {
    "test_basic::test_server_multiple_addresses": "one address is listened on",
    "test_basic::test_server_props": "wants the server's own default seed; there is no such setting",
    "test_basic::test_server_slots": "wants a setting that takes /slots away; it shows nothing that needs it",
    "test_basic::test_no_ui": "wants a web page at /",
    "test_basic::test_server_model_aliases_and_tags": "wants aliases and tags, and the first by alphabet as name",
    "test_chat_completion::test_chat_completion(*": _COUNTS,
    "test_chat_completion::test_chat_completion_cached_tokens": _COUNTS,
    "test_chat_completion::test_chat_completion_stream(*": _FIRST_CHUNK,
    "test_chat_completion::test_chat_completion_with_openai_library": _FINGERPRINT,
    "test_chat_completion::test_chat_template": _VERBOSE,
    "test_chat_completion::test_chat_template_assistant_prefill(*": _VERBOSE,
    "test_chat_completion::test_chat_template_continue_final_message_vllm_compat": _VERBOSE,
    "test_chat_completion::test_invalid_chat_completion_req(messages7)": "two last messages of one role",
    "test_chat_completion::test_chat_completion_with_timings_per_token": _FIRST_CHUNK,
    "test_chat_completion::test_logprobs_stream": _FIRST_CHUNK,
    "test_chat_completion::test_context_size_exceeded": _OVERFLOW,
    "test_chat_completion::test_context_size_exceeded_stream": _OVERFLOW,
    "test_chat_completion::test_return_progress(64-4-False)": _COUNTS,
    "test_chat_completion::test_verbose_debug": _VERBOSE,
    "test_compat_anthropic::test_anthropic_tool_result_with_image": _IMAGE,
    "test_compat_anthropic::test_anthropic_vision_format_accepted": _IMAGE,
    "test_compat_anthropic::test_anthropic_vision_base64_*": "fetches an image from the internet",
    "test_compat_anthropic::test_anthropic_empty_messages": "no message is a 400, as Anthropic has it",
    "test_compat_anthropic::test_anthropic_thinking": "a budget under 1,024 is a 400, as Anthropic has it",
    "test_completion::test_completion(*": _COUNTS,
    "test_completion::test_completion_stream(*": _COUNTS,
    "test_completion::test_completion_with_openai_library": _FINGERPRINT,
    "test_completion::test_nocache_long_input_prompt": _COUNTS,
    "test_completion::test_completion_response_fields(*response_fields1)": _START,
    "test_completion::test_completion_unified(*": _WORDS,
    "test_completion::test_completion_prompt_cache": _COUNTS,
    "test_ctx_shift::test_ctx_shift_enabled": "a context isn't shifted",
    "test_ctx_shift::test_ctx_shift_disabled_short_prompt(*": _WORDS,
    "test_ctx_shift::test_ctx_shift_disabled_long_prompt": _COUNTS,
    "test_ctx_shift::test_ctx_shift_disabled_stream": _WORDS,
    "test_embedding::test_embedding_mixed_input(-False)": "an empty text has no tokens with this model",
    "test_embedding::test_embedding_mixed_input(input3-False)": _EMBEDDING,
    "test_embedding::test_embedding_mixed_input(input5-True)": _EMBEDDING,
    "test_embedding::test_embedding_mixed_input(input7-True)": _EMBEDDING,
    "test_embedding::test_embedding_mixed_input(input8-False)": _EMBEDDING,
    "test_embedding::test_embedding_mixed_input(input9-False)": _EMBEDDING,
    "test_embedding::test_embedding_mixed_input(input10-True)": _EMBEDDING,
    "test_embedding::test_embedding_content_text_same_as_string": _EMBEDDING,
    "test_embedding::test_embedding_pooling_none*": "vectors are always pooled",
    "test_embedding::test_embedding_error_prompt_too_long": "another wording of the error",
    "test_embedding::test_embedding_usage_*": _COUNTS,
    "test_metrics::test_metrics_disabled": "wants a setting that takes /metrics away",
    "test_metrics::test_metrics_embedding_prompt_is_counted": "texts that are only read take no engine step",
    "test_metrics::test_metrics_prometheus_format": "n_tokens_max is a gauge: a counter's name ends with _total",
    "test_security::test_access_static_assets_without_api_key": "wants a web page",
    "test_security::test_correct_api_key*": _NATIVE,
    "test_security::test_cors_*": _OPTIONS,
    "test_security::test_local_media_file(../../../tools*True)": _IMAGE,
    "test_template::test_date_inside_prompt(*": "templates get transformers' variables; llama.cpp adds today's date",
    "test_tokenize::test_tokenize_with_bos": _START,
    "test_tool_call::test_completion_without_tool_call_fast(*STREAMED)": _FIRST_CHUNK,
}

#: Tests that pass or fail by how the machine computes.
VARYING: dict[str, str] = {
    "test_embedding::test_same_prompt_give_same_result": "with 4-bit weights, vectors differ by 0.002 between passes",
}

#: Modules whose tests want a server that nobody has used.
FRESH = frozenset({"test_metrics"})


def table() -> str:
    """Both as a table for people: a row for each reason."""
    tests: dict[str, list[str]] = {}
    for name, why in (*((f"{module}.py", why) for module, why in UNRUN.items()), *MISSES.items(), *VARYING.items()):
        tests.setdefault(why, []).append(f"`{name}`")
    rows = (f"| {', '.join(names)} | {why} |" for why, names in tests.items())
    return "\n".join(("| test | why |", "|---|---|", *rows))
