"""Counters and histograms in Prometheus' text format, under vLLM's names, so that its dashboards work.

Nothing is counted per token. A request is counted when it ends, and the engine's counters come with its heartbeats and
are read at a scrape.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tailrace.observe.llama_server_metrics import LlamaServerCollector
from tailrace.protocol import EngineCounters

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


#: Upper bounds in seconds, the last one infinite, and how many times were at most as long as each.
Buckets = tuple[tuple[float, ...], tuple[float, ...]]


class TokenCounts(Protocol):
    """A request's tokens: its prompt, the part of it that was cached, and its replies."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...


class EngineState(Protocol):
    """The state of the engines, summed over all of them, that a scrape reads."""

    @property
    def counters(self) -> EngineCounters: ...
    @property
    def kv_cells_used(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def engine_starts(self) -> int: ...
    @property
    def kv_cells(self) -> int: ...


class Metrics:
    """One process's metrics, labelled with the served model's name."""

    def __init__(self, model_name: str, engine: EngineState) -> None:
        # Otherwise each counter has a second series with its creation time.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in the library
        self._registry = CollectorRegistry()
        self._model = model_name

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ("model_name", *labels), registry=self._registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, ("model_name",), buckets=_SECONDS, registry=self._registry)

        self._requests = Counter(
            "tailrace:http_requests", "HTTP responses by route and status", ("route", "status"), registry=self._registry
        )
        self._finished = counter("vllm:request_success", "Finished generations by reason", "finished_reason")
        self._prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens read for requests").labels(model_name)
        self._generated = counter(
            "vllm:generation_tokens", "Tokens generated for requests, those that broke off included"
        ).labels(model_name)
        self._cached = counter("tailrace:cached_prompt_tokens", "Prompt tokens found in the KV cache").labels(
            model_name
        )
        self._first_token = histogram("vllm:time_to_first_token_seconds", "Request to first token").labels(model_name)
        self._duration = histogram("vllm:e2e_request_latency_seconds", "Request to last token").labels(model_name)
        self._registry.register(_EngineCollector(model_name, engine))
        self._llama_server = LlamaServerCollector(engine)
        self._registry.register(self._llama_server)

    def response_started(self, route: str, status: int) -> None:
        """Count an HTTP response, when its status line is sent."""
        self._requests.labels(route, str(status)).inc()

    def first_token(self, seconds: float) -> None:
        """Record the time from a request's submission to its first token."""
        self._first_token.observe(seconds)

    def generation_ended(self, reason: str) -> None:
        """Count one generation by its end: stop, length, tool_calls, abort or error."""
        self._finished.labels(self._model, reason).inc()

    def count_tokens(self, counts: TokenCounts) -> None:
        """Count the tokens of a request that has ended, successfully or not."""
        self._prompt_tokens.inc(counts.prompt_tokens)
        self._generated.inc(counts.completion_tokens)
        self._cached.inc(counts.cached_tokens)
        self._llama_server.count_request(counts.prompt_tokens, counts.cached_tokens, counts.completion_tokens)

    def prompt_computed(self, seconds: float) -> None:
        """Add the seconds that a prompt's computation took."""
        self._llama_server.prompt.seconds += seconds

    def reply_ended(self, seconds: float) -> None:
        """Add the seconds from a request's first token to its reply's end."""
        self._llama_server.generated.seconds += seconds

    def request_completed(self, seconds: float) -> None:
        """Record the time from submission to the end of a request all of whose choices succeeded."""
        self._duration.observe(seconds)

    def first_token_buckets(self) -> Buckets:
        """The times to a first token so far."""
        return _buckets(self._first_token)

    def inter_token_buckets(self) -> Buckets:
        """The times between tokens so far."""
        return (), ()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _buckets(histogram: Histogram) -> Buckets:
    samples = [sample for family in histogram.collect() for sample in family.samples if sample.name.endswith("_bucket")]
    return tuple(float(sample.labels["le"]) for sample in samples), tuple(sample.value for sample in samples)


class _EngineCollector(Collector):
    """The engines' counters as of their last heartbeats, and the numbers of requests that run and wait, which this
    process knows itself.
    """

    def __init__(self, model_name: str, engine: EngineState) -> None:
        self._model = model_name
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """The metrics of one scrape."""
        engine = self._engine.counters
        cells = self._engine.kv_cells
        gauges = (
            ("vllm:num_requests_running", "Sequences in the running set", self._engine.running),
            ("vllm:num_requests_waiting", "Sequences in the queue", self._engine.waiting),
            (
                "vllm:kv_cache_usage_perc",
                "Used part of the KV cache, 0 to 1",
                self._engine.kv_cells_used / cells if cells else 0,
            ),
        )
        counters = (
            ("tailrace:engine_starts", "Engines that have connected", self._engine.engine_starts),
            ("tailrace:engine_steps", "Engine steps (of this engine)", engine.steps),
            ("tailrace:engine_prefill_tokens", "Prompt tokens computed (by this engine)", engine.prefill_tokens),
            ("tailrace:engine_decode_tokens", "Tokens sampled (by this engine)", engine.decode_tokens),
            ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache", engine.prefix_queries),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache", engine.prefix_hits),
            (
                "vllm:num_preemptions",
                "Sequences paused for want of KV cells, for another caller, or for a more urgent request",
                engine.preemptions,
            ),
            ("vllm:spec_decode_num_drafts", "Drafts that were verified", engine.drafts),
            ("vllm:spec_decode_num_draft_tokens", "Draft tokens that were verified", engine.draft_tokens),
            ("vllm:spec_decode_num_accepted_tokens", "Draft tokens that were accepted", engine.accepted_tokens),
        )
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(name, text, labels=("model_name",))
            gauge.add_metric((self._model,), value)
            yield gauge
        for name, text, value in counters:
            family = CounterMetricFamily(name, text, labels=("model_name",))
            family.add_metric((self._model,), value)
            yield family
