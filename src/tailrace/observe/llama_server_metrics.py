"""llama-server's metrics, under its names and without labels, so that its dashboards work.

Requests are counted when they end. Seconds are summed over requests, as llama-server does it, so with concurrent
requests the sum grows faster than a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tailrace.protocol import EngineCounters


class EngineLoad(Protocol):
    """The state of the engines that a scrape reads."""

    @property
    def counters(self) -> EngineCounters: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class TokenRate:
    """Tokens and seconds, in total and since the last scrape."""

    __slots__ = ("_reported_seconds", "_reported_tokens", "seconds", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._reported_tokens = 0
        self._reported_seconds = 0.0

    def since_last(self) -> float:
        """Tokens per second since the last call; 0 where there were none."""
        tokens, seconds = self.tokens - self._reported_tokens, self.seconds - self._reported_seconds
        self._reported_tokens, self._reported_seconds = self.tokens, self.seconds
        return tokens / seconds if seconds > 0 else 0.0


class LlamaServerCollector(Collector):
    """The metrics. ``count_request`` is called at the end of each request."""

    def __init__(self, engine: EngineLoad) -> None:
        self._engine = engine
        self._largest = 0
        self.prompt = TokenRate()  #: computed prompt tokens, without cached ones
        self.cached = 0
        self.generated = TokenRate()

    def count_request(self, prompt: int, cached: int, generated: int) -> None:
        """Count a request's tokens: its prompt's, the cached part of them, and its replies'."""
        self.prompt.tokens += prompt - cached
        self.cached += cached
        self.generated.tokens += generated
        self._largest = max(self._largest, prompt + generated)

    def collect(self) -> Iterable[Metric]:
        """The metrics of one scrape."""
        engine = self._engine.counters
        counters = (
            ("prompt_tokens", "Number of prompt tokens processed.", self.prompt.tokens),
            ("prompt_tokens_cached", "Number of prompt tokens found in the cache.", self.cached),
            ("prompt_seconds", "Prompt process time.", self.prompt.seconds),
            ("tokens_predicted", "Number of generation tokens processed.", self.generated.tokens),
            ("tokens_predicted_seconds", "Predict process time.", self.generated.seconds),
            ("n_decode", "Total number of engine steps.", engine.steps),
            ("spec_decode_num_drafts", "Drafts that were verified.", engine.drafts),
            ("spec_decode_num_draft_tokens", "Draft tokens that were verified.", engine.draft_tokens),
            ("spec_decode_num_accepted_tokens", "Draft tokens that were accepted.", engine.accepted_tokens),
        )
        busy = engine.decode_tokens / engine.steps if engine.steps else 0.0
        gauges = (
            ("prompt_tokens_seconds", "Average prompt throughput in tokens/s.", self.prompt.since_last()),
            ("predicted_tokens_seconds", "Average generation throughput in tokens/s.", self.generated.since_last()),
            ("requests_processing", "Number of requests processing.", self._engine.running),
            ("requests_deferred", "Number of requests deferred.", self._engine.waiting),
            ("n_busy_slots_per_decode", "Tokens of replies per engine step.", busy),
            ("n_tokens_max", "Largest number of tokens of a request.", self._largest),
        )
        for name, text, value in counters:
            yield CounterMetricFamily(f"llamacpp:{name}", text, value=value)
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"llamacpp:{name}", text, value=value)
