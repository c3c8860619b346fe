"""The metrics under vLLM's names, with its labels ``model_name`` and ``engine``, so that its dashboards work.

Source: vLLM 0.32, ``vllm/v1/metrics/loggers.py``. docs/metrics.md lists those that have no meaning here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tailrace.observe.buckets import STEP_TOKENS
from tailrace.observe.engine_figures import EngineFigures
from tailrace.observe.histogram import Histogram
from tailrace.observe.metric import Labelled, Metric
from tailrace.observe.request_totals import RequestTotals
from tailrace.protocol import ModelInfo


@dataclass(frozen=True)
class EngineView:
    """One engine at a scrape."""

    figures: EngineFigures
    requests: RequestTotals
    model: ModelInfo | None


#: Labels of all metrics of an engine.
ENGINE_LABELS = ("engine", "model_name")


def _use(view: EngineView) -> float:
    figures = view.figures
    return figures.kv_cells_used / figures.kv_cells if figures.kv_cells else 0.0


def _sources(view: EngineView) -> Labelled:
    requests = view.requests
    return {
        "local_compute": requests.prompt_tokens - requests.cached_tokens,
        "local_cache_hit": requests.cached_tokens,
        "external_kv_transfer": 0,
    }


def _step_tokens(view: EngineView) -> Histogram:
    return Histogram(STEP_TOKENS, view.figures.step_tokens, view.figures.counters.batch_tokens)


def _cache_config(view: EngineView) -> Labelled:
    cells = view.figures.kv_cells
    return {("1", str(cells), "True", str(0 if view.model is None else view.model.context)): 1}


VLLM_METRICS: tuple[Metric[EngineView], ...] = (
    Metric("vllm:num_requests_running", "gauge", "Generations that the engine works on", lambda v: v.figures.running),
    Metric("vllm:num_requests_waiting", "gauge", "Generations that wait for the engine", lambda v: v.figures.waiting),
    Metric(
        "vllm:num_requests_waiting_by_reason",
        "gauge",
        "Waiting generations: for a slot or KV cells (capacity), or for their text, grammar or prefix (deferred)",
        lambda v: {"capacity": v.figures.queued, "deferred": v.figures.waiting - v.figures.queued},
        ("reason",),
    ),
    Metric("vllm:kv_cache_usage_perc", "gauge", "Used part of the KV cache, 0 to 1, cached prefixes included", _use),
    Metric(
        "vllm:cache_config_info",
        "gauge",
        "The KV cache: always 1",
        _cache_config,
        ("block_size", "num_gpu_blocks", "enable_prefix_caching", "max_model_len"),
    ),
    Metric(
        "vllm:prefix_cache_queries_total",
        "counter",
        "Prompt tokens looked up in the prefix cache",
        lambda v: v.figures.counters.prefix_queries,
    ),
    Metric(
        "vllm:prefix_cache_hits_total",
        "counter",
        "Prompt tokens found in the prefix cache",
        lambda v: v.figures.counters.prefix_hits,
    ),
    Metric(
        "vllm:num_preemptions_total",
        "counter",
        "Sequences paused for want of KV cells, for another caller, or for a more urgent request",
        lambda v: v.figures.counters.preemptions,
    ),
    Metric(
        "vllm:prompt_tokens_total",
        "counter",
        "Tokens of prompts that were computed, the cached ones included",
        lambda v: v.requests.prompt_tokens,
    ),
    Metric(
        "vllm:prompt_tokens_by_source_total", "counter", "Prompt tokens by where they came from", _sources, ("source",)
    ),
    Metric(
        "vllm:prompt_tokens_cached_total",
        "counter",
        "Prompt tokens that the prefix cache had",
        lambda v: v.requests.cached_tokens,
    ),
    Metric(
        "vllm:generation_tokens_total",
        "counter",
        "Tokens of replies, those that still run and those that broke off included",
        lambda v: v.requests.generation_tokens + v.figures.generating_tokens,
    ),
    Metric(
        "vllm:request_success_total",
        "counter",
        "Ended generations by reason: stop, length, tool_calls, abort, error",
        lambda v: v.requests.finished,
        ("finished_reason",),
    ),
    Metric("vllm:iteration_tokens_total", "histogram", "Tokens of an engine step", _step_tokens),
    Metric(
        "vllm:time_to_first_token_seconds",
        "histogram",
        "From a request's submission to its first token",
        lambda v: v.requests.first_token_seconds,
    ),
    Metric(
        "vllm:inter_token_latency_seconds",
        "histogram",
        "Time between two steps that bring tokens to a reply",
        lambda v: v.figures.token_gaps,
    ),
    Metric(
        "vllm:request_time_per_output_token_seconds",
        "histogram",
        "Mean time of a reply's tokens after its first",
        lambda v: v.requests.output_token_seconds,
    ),
    Metric(
        "vllm:e2e_request_latency_seconds",
        "histogram",
        "From a request's submission to the end of its last reply",
        lambda v: v.requests.request_seconds,
    ),
    Metric(
        "vllm:request_queue_time_seconds",
        "histogram",
        "From a request's submission to its admission to the batch",
        lambda v: v.requests.queue_seconds,
    ),
    Metric(
        "vllm:request_prefill_time_seconds",
        "histogram",
        "From the admission to the first token",
        lambda v: v.requests.prefill_seconds,
    ),
    Metric(
        "vllm:request_decode_time_seconds",
        "histogram",
        "From a reply's first token to its end",
        lambda v: v.requests.decode_seconds,
    ),
    Metric(
        "vllm:request_inference_time_seconds",
        "histogram",
        "From the admission to the reply's end",
        lambda v: v.requests.inference_seconds,
    ),
    Metric("vllm:request_prompt_tokens", "histogram", "Tokens of a prompt", lambda v: v.requests.prompt_lengths),
    Metric(
        "vllm:request_prefill_kv_computed_tokens",
        "histogram",
        "Tokens of a prompt that the prefix cache didn't have",
        lambda v: v.requests.computed_lengths,
    ),
    Metric("vllm:request_generation_tokens", "histogram", "Tokens of a reply", lambda v: v.requests.generation_lengths),
    Metric(
        "vllm:request_max_num_generation_tokens",
        "histogram",
        "Tokens of the longest of a request's replies",
        lambda v: v.requests.longest_generations,
    ),
    Metric("vllm:request_params_n", "histogram", "Replies that a request asks for", lambda v: v.requests.choices),
    Metric(
        "vllm:request_params_max_tokens",
        "histogram",
        "Longest reply that a request allows, where it says so",
        lambda v: v.requests.max_tokens,
    ),
    Metric(
        "vllm:spec_decode_num_drafts_total", "counter", "Drafts that were verified", lambda v: v.figures.counters.drafts
    ),
    Metric(
        "vllm:spec_decode_num_draft_tokens_total",
        "counter",
        "Draft tokens that were verified",
        lambda v: v.figures.counters.draft_tokens,
    ),
    Metric(
        "vllm:spec_decode_num_accepted_tokens_total",
        "counter",
        "Draft tokens that were accepted",
        lambda v: v.figures.counters.accepted_tokens,
    ),
)
