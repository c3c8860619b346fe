"""The metrics in Prometheus' text format, read with its own parser."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from tailrace.observe.metrics import Metrics
from tailrace.protocol import EngineCounters


@dataclass
class Engine:
    counters: EngineCounters = field(default_factory=EngineCounters)
    kv_cells_used: int = 0
    engine_starts: int = 1
    kv_cells: int = 0
    running: int = 0
    waiting: int = 0


@dataclass
class Counts:
    prompt_tokens: int = 10
    completion_tokens: int = 5
    cached_tokens: int = 3


def samples(metrics: Metrics) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()) if key != "model_name")
            assert sample.labels.get("model_name", 'a "model"\n') == 'a "model"\n'
            key = f"{sample.name}[{labels}]"
            assert key not in found
            found[key] = sample.value
    return found


def test_metrics_before_the_first_request() -> None:
    found = samples(Metrics('a "model"\n', Engine()))
    assert found["vllm:num_requests_running[]"] == 0
    assert found["vllm:kv_cache_usage_perc[]"] == 0
    assert found["vllm:prompt_tokens_total[]"] == 0


def test_metrics_after_requests() -> None:
    counters = EngineCounters(
        steps=7,
        prefill_tokens=11,
        decode_tokens=13,
        prefix_queries=17,
        prefix_hits=5,
        preemptions=1,
        drafts=19,
        draft_tokens=190,
        accepted_tokens=133,
    )
    metrics = Metrics('a "model"\n', Engine(counters, 25, 2, 100, running=4, waiting=6))
    metrics.response_started("/chat/completions", 200)
    metrics.response_started("/chat/completions", 200)
    metrics.response_started("other", 404)
    metrics.generation_ended("stop")
    metrics.generation_ended("abort")
    metrics.first_token(0.2)
    metrics.count_tokens(Counts())
    metrics.request_completed(3.0)
    found = samples(metrics)
    expected = {
        "tailrace:http_requests_total[route=/chat/completions,status=200]": 2,
        "tailrace:http_requests_total[route=other,status=404]": 1,
        "vllm:request_success_total[finished_reason=stop]": 1,
        "vllm:request_success_total[finished_reason=abort]": 1,
        "vllm:prompt_tokens_total[]": 10,
        "vllm:generation_tokens_total[]": 5,
        "tailrace:cached_prompt_tokens_total[]": 3,
        "vllm:time_to_first_token_seconds_count[]": 1,
        "vllm:time_to_first_token_seconds_bucket[le=0.25]": 1,
        "vllm:time_to_first_token_seconds_bucket[le=0.1]": 0,
        "vllm:e2e_request_latency_seconds_sum[]": 3.0,
        "vllm:num_requests_running[]": 4,
        "vllm:num_requests_waiting[]": 6,
        "vllm:kv_cache_usage_perc[]": 0.25,
        "vllm:prefix_cache_queries_total[]": 17,
        "vllm:prefix_cache_hits_total[]": 5,
        "vllm:num_preemptions_total[]": 1,
        "vllm:spec_decode_num_drafts_total[]": 19,
        "vllm:spec_decode_num_draft_tokens_total[]": 190,
        "vllm:spec_decode_num_accepted_tokens_total[]": 133,
        "tailrace:engine_starts_total[]": 2,
        "tailrace:engine_steps_total[]": 7,
        "tailrace:engine_prefill_tokens_total[]": 11,
        "tailrace:engine_decode_tokens_total[]": 13,
    }
    assert {name: found[name] for name in expected} == expected
    assert not [name for name in found if "_created" in name]


def test_metrics_under_llama_servers_names() -> None:
    engine = Engine(running=2, waiting=1)
    metrics = Metrics('a "model"\n', engine)
    metrics.prompt_computed(0.5)
    metrics.reply_ended(2.0)
    metrics.count_tokens(Counts())
    engine.counters = EngineCounters(steps=4, prefill_tokens=11, decode_tokens=10)
    found = samples(metrics)
    assert found["llamacpp:prompt_tokens_total[]"] == 7
    assert found["llamacpp:prompt_tokens_cached_total[]"] == 3
    assert found["llamacpp:prompt_seconds_total[]"] == 0.5
    assert found["llamacpp:tokens_predicted_total[]"] == 5
    assert found["llamacpp:tokens_predicted_seconds_total[]"] == 2.0
    assert found["llamacpp:n_decode_total[]"] == 4
    assert found["llamacpp:n_busy_slots_per_decode[]"] == 2.5
    assert found["llamacpp:prompt_tokens_seconds[]"] == 14
    assert found["llamacpp:predicted_tokens_seconds[]"] == 2.5
    assert (found["llamacpp:requests_processing[]"], found["llamacpp:requests_deferred[]"]) == (2, 1)
    assert found["llamacpp:n_tokens_max[]"] == 15
    again = samples(metrics)
    assert again["llamacpp:predicted_tokens_seconds[]"] == 0, "rates are of what has ended since the last scrape"
    assert again["llamacpp:tokens_predicted_total[]"] == 5
