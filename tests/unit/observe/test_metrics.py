"""The metrics in Prometheus' text format, read with its own parser."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from model_load import Load
from tailrace.errors import EngineDied, InvalidRequest, TooManyRequests
from tailrace.machine.cgroup import Throttling
from tailrace.observe.device_metrics import DEVICE_METRICS, LINK_METRICS
from tailrace.observe.engine_figures import EngineFigures
from tailrace.observe.llama_server_metrics import LLAMA_SERVER_METRICS
from tailrace.observe.metrics import REFUSALS, Metrics, ModelMetrics
from tailrace.observe.model_metrics import MODEL_METRICS
from tailrace.observe.own_metrics import ENGINE_METRICS, SERVER_METRICS
from tailrace.observe.vllm_metrics import VLLM_METRICS
from tailrace.protocol import EngineCounters, ModelInfo


@dataclass
class Engine:
    engines: list[EngineFigures] = field(default_factory=lambda: [EngineFigures()])
    engine_starts: int = 1
    model_info: ModelInfo | None = None

    def figures(self, replica: int) -> EngineFigures:
        return self.engines[replica]


@dataclass
class Counts:
    prompt_tokens: int = 10
    completion_tokens: int = 5
    cached_tokens: int = 3


def model_metrics(engine: Engine, replicas: int = 1) -> ModelMetrics:
    return Metrics().add_model('a "model"\n', engine, Load(), replicas)


def samples(metrics: ModelMetrics) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.server.render().decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()) if key != "model_name")
            assert sample.labels.get("model_name", 'a "model"\n') == 'a "model"\n'
            key = f"{sample.name}[{labels}]"
            assert key not in found
            found[key] = sample.value
    return found


def names() -> Iterable[str]:
    for table in (VLLM_METRICS, ENGINE_METRICS, MODEL_METRICS, SERVER_METRICS, LLAMA_SERVER_METRICS):
        yield from (metric.name for metric in table)


def test_every_metric_is_there_before_the_first_request() -> None:
    """``rate()`` needs the sample before the first increase."""
    metrics = model_metrics(Engine())
    metrics.server.add_route("/chat/completions")
    found = samples(metrics)
    for name in names():
        assert any(key.startswith((f"{name}[", f"{name}_bucket[")) for key in found), name
    for code in (*REFUSALS, "engine_died", "model_not_found", "invalid_request_error"):
        assert found[f"tailrace:errors_total[code={code}]"] == 0
    assert found["tailrace:http_requests_total[route=/chat/completions,status=200]"] == 0
    assert found["vllm:request_success_total[engine=0,finished_reason=length]"] == 0
    assert found["vllm:inter_token_latency_seconds_count[engine=0]"] == 0


def test_no_metric_is_defined_twice() -> None:
    placed = [metric.name for table in (LINK_METRICS, DEVICE_METRICS) for metric in table]
    found = [*names(), *placed]
    assert len(found) == len(set(found))
    tables = (VLLM_METRICS, ENGINE_METRICS, MODEL_METRICS, SERVER_METRICS, LLAMA_SERVER_METRICS)
    for table in (*tables, LINK_METRICS, DEVICE_METRICS):
        for metric in table:
            # vLLM has one histogram whose name ends as a counter's.
            counts = metric.name.endswith("_total") and metric.name != "vllm:iteration_tokens_total"
            assert counts == (metric.kind == "counter"), metric.name


def test_metrics_of_an_engine() -> None:
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
        decode_seconds=2.5,
        mask_wait_seconds=0.25,
        batch_tokens=31,
        cancelled=4,
    )
    engine = EngineFigures(
        counters=counters,
        kv_cells_used=25,
        kv_cells=100,
        running=4,
        waiting=6,
        queued=5,
        generating_tokens=8,
        step_tokens=[1, 6, *[0] * 12],
        connected=True,
    )
    found = samples(model_metrics(Engine([engine], 2)))
    expected = {
        "vllm:num_requests_running[engine=0]": 4,
        "vllm:num_requests_waiting[engine=0]": 6,
        "vllm:num_requests_waiting_by_reason[engine=0,reason=capacity]": 5,
        "vllm:num_requests_waiting_by_reason[engine=0,reason=deferred]": 1,
        "vllm:kv_cache_usage_perc[engine=0]": 0.25,
        "vllm:prefix_cache_queries_total[engine=0]": 17,
        "vllm:prefix_cache_hits_total[engine=0]": 5,
        "vllm:num_preemptions_total[engine=0]": 1,
        "vllm:generation_tokens_total[engine=0]": 8,
        "vllm:iteration_tokens_total_bucket[engine=0,le=1.0]": 1,
        "vllm:iteration_tokens_total_bucket[engine=0,le=8.0]": 7,
        "vllm:iteration_tokens_total_sum[engine=0]": 31,
        "vllm:spec_decode_num_drafts_total[engine=0]": 19,
        "vllm:spec_decode_num_draft_tokens_total[engine=0]": 190,
        "vllm:spec_decode_num_accepted_tokens_total[engine=0]": 133,
        "tailrace:engine_starts_total[]": 2,
        "tailrace:engine_steps_total[engine=0]": 7,
        "tailrace:engine_prefill_tokens_total[engine=0]": 11,
        "tailrace:engine_decode_tokens_total[engine=0]": 13,
        "tailrace:engine_step_seconds_total[engine=0,part=decode]": 2.5,
        "tailrace:engine_step_seconds_total[engine=0,part=mask_wait]": 0.25,
        "tailrace:engine_cancelled_total[engine=0]": 4,
        "tailrace:engine_up[engine=0]": 1,
        "tailrace:ready[]": 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert not [name for name in found if "_created" in name]


def test_metrics_of_requests() -> None:
    metrics = model_metrics(Engine([EngineFigures(), EngineFigures(generating_tokens=1)]), 2)
    requests = metrics.requests(1)
    requests.accepted(3, 500)
    requests.started(0.5, 0.25)
    requests.prompt_computed(10, 3)
    requests.first_token_seconds.observe(0.2)
    requests.finished["stop"] += 1
    requests.ended(5, 0.25, 2.0)
    requests.ended(0, 0.0, None)
    requests.request_seconds.observe(3.0)
    found = samples(metrics)
    expected = {
        "vllm:request_success_total[engine=1,finished_reason=stop]": 1,
        "vllm:request_success_total[engine=0,finished_reason=stop]": 0,
        "vllm:prompt_tokens_total[engine=1]": 10,
        "vllm:prompt_tokens_cached_total[engine=1]": 3,
        "vllm:prompt_tokens_by_source_total[engine=1,source=local_compute]": 7,
        "vllm:prompt_tokens_by_source_total[engine=1,source=local_cache_hit]": 3,
        "vllm:prompt_tokens_by_source_total[engine=1,source=external_kv_transfer]": 0,
        "vllm:generation_tokens_total[engine=1]": 6,
        "vllm:time_to_first_token_seconds_count[engine=1]": 1,
        "vllm:time_to_first_token_seconds_bucket[engine=1,le=0.25]": 1,
        "vllm:time_to_first_token_seconds_bucket[engine=1,le=0.1]": 0,
        "vllm:e2e_request_latency_seconds_sum[engine=1]": 3.0,
        "vllm:request_queue_time_seconds_sum[engine=1]": 0.5,
        "vllm:request_prefill_time_seconds_sum[engine=1]": 0.25,
        "vllm:request_decode_time_seconds_sum[engine=1]": 2.0,
        "vllm:request_inference_time_seconds_sum[engine=1]": 2.25,
        "vllm:request_time_per_output_token_seconds_sum[engine=1]": 0.5,
        "vllm:request_generation_tokens_count[engine=1]": 1,
        "vllm:request_generation_tokens_bucket[engine=1,le=5.0]": 1,
        "vllm:request_prompt_tokens_sum[engine=1]": 10,
        "vllm:request_prefill_kv_computed_tokens_sum[engine=1]": 7,
        "vllm:request_params_n_sum[engine=1]": 3,
        "vllm:request_params_max_tokens_sum[engine=1]": 500,
    }
    assert {name: found[name] for name in expected} == expected


def test_responses_and_errors_are_counted() -> None:
    metrics = model_metrics(Engine())
    metrics.server.response_started("/chat/completions", 200)
    metrics.server.response_started("/chat/completions", 200)
    metrics.server.response_started("other", 404)
    metrics.server.request_failed(EngineDied("gone"))
    metrics.server.request_failed(InvalidRequest("wrong"))
    metrics.server.request_failed(TooManyRequests("later"))
    found = samples(metrics)
    assert found["tailrace:http_requests_total[route=/chat/completions,status=200]"] == 2
    assert found["tailrace:http_requests_total[route=other,status=404]"] == 1
    assert found["tailrace:errors_total[code=engine_died]"] == 1
    assert found["tailrace:errors_total[code=invalid_request_error]"] == 1
    assert found["tailrace:errors_total[code=queue_full]"] == 1
    assert found["tailrace:refusals_total[reason=queue_full]"] == 1
    assert "tailrace:refusals_total[reason=engine_died]" not in found


def test_the_codes_of_errors_are_bounded() -> None:
    metrics = model_metrics(Engine())
    for number in range(1000):
        metrics.server.request_failed(InvalidRequest("wrong", code=f"code {number}"))
    codes = [name for name in samples(metrics) if name.startswith("tailrace:errors_total")]
    assert len(codes) <= 200
    assert samples(metrics)["tailrace:errors_total[code=other]"] > 700


def test_metrics_of_this_process() -> None:
    found = samples(model_metrics(Engine()))
    assert found["tailrace:process_resident_memory_bytes[process=http]"] > 1_000_000
    assert 3 <= found["tailrace:process_open_fds[process=http]"] < found["tailrace:process_max_fds[process=http]"]
    assert found["tailrace:process_cpu_seconds_total[process=http]"] > 0
    assert found["tailrace:process_resident_memory_bytes[process=sandboxes]"] == 0


def test_metrics_under_llama_servers_names() -> None:
    engine = Engine([EngineFigures(running=2, waiting=1)])
    metrics = model_metrics(engine)
    metrics.server.prompt_computed(0.5)
    metrics.server.reply_ended(2.0)
    metrics.server.count_tokens(Counts())
    counters = EngineCounters(steps=4, prefill_tokens=11, decode_tokens=10)
    engine.engines[0] = EngineFigures(running=2, waiting=1, counters=counters)
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


def test_the_control_group_that_stood_still_longest_is_shown() -> None:
    metrics = model_metrics(Engine())
    metrics.server.read_throttling = lambda: [
        Throttling("/a/b", 1.5, periods=9, throttled=4, seconds=2.5),
        Throttling("/a", None, periods=20, throttled=7, seconds=0.5),
    ]
    found = samples(metrics)
    assert found["tailrace:cpu_throttled_periods_total[]"] == 4
    assert found["tailrace:cpu_throttled_seconds_total[]"] == 2.5


def test_each_model_has_its_samples_and_the_servers_are_sums() -> None:
    metrics = Metrics(several=True)
    engines = {
        "a": Engine([EngineFigures(running=2, connected=True)]),
        "b": Engine([EngineFigures(running=1, connected=True), EngineFigures()]),
        "c": Engine(engine_starts=0),
    }
    loads = {"a": Load(waiting=3, running=2), "b": Load(), "c": Load(is_loaded=False)}
    loads["b"].figures.loaded(2.5)
    models = {
        name: metrics.add_model(name, engine, loads[name], len(engine.engines)) for name, engine in engines.items()
    }
    models["b"].requests(1).finished["stop"] += 1
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }

    def of(name: str, model: str = "", **labels: str) -> float:
        return found[name, frozenset({**({"model_name": model} if model else {}), **labels}.items())]

    assert [of("vllm:num_requests_running", name, engine="0") for name in "abc"] == [2, 1, 0]
    assert of("vllm:request_success_total", "b", engine="1", finished_reason="stop") == 1
    assert [of("tailrace:model_loaded", name) for name in "abc"] == [1, 1, 0]
    assert (of("tailrace:model_waiting_requests", "a"), of("tailrace:model_requests", "a")) == (3, 2)
    assert (of("tailrace:model_loads_total", "b"), of("tailrace:model_load_seconds_total", "b")) == (1, 2.5)
    assert (of("llamacpp:requests_processing"), of("tailrace:engine_starts_total")) == (3, 2)
    for process in ("http", "engine a", "engine b", "engine b 1", "engine c"):
        assert of("tailrace:process_starts_total", process=process) == 0
    metrics.remove_model("b")
    assert b'model_name="b"' not in metrics.render()


def test_hundreds_of_models_that_were_never_loaded_have_few_samples() -> None:
    metrics = Metrics(several=True)
    for number in range(300):
        metrics.add_model(f"m{number}", Engine(engine_starts=int(number == 7)), Load(is_loaded=False))
    text = metrics.render().decode()
    assert text.count("tailrace:model_loaded{") == 300
    assert text.count("tailrace:engine_up{") == 1
    assert 'tailrace:engine_up{engine="0",model_name="m7"}' in text
