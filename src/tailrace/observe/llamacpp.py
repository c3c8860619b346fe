"""llama-server's metrics, under its names and without labels, for dashboards that were made for it.

Counts are of requests that have ended. Times are added up request by request, as llama-server does: with several at a
time they pass faster than a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tailrace.protocol import EngineCounters


class Load(Protocol):
    """What is read of the engines at a scrape."""

    @property
    def counters(self) -> EngineCounters: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class Rate:
    """Tokens and the seconds that they took, in all and since the last scrape."""

    __slots__ = ("_told_seconds", "_told_tokens", "seconds", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._told_tokens = 0
        self._told_seconds = 0.0

    def since_last(self) -> float:
        """Tokens a second since this was last asked; 0 where there were none."""
        tokens, seconds = self.tokens - self._told_tokens, self.seconds - self._told_seconds
        self._told_tokens, self._told_seconds = self.tokens, self.seconds
        return tokens / seconds if seconds > 0 else 0.0


class LlamaCppCollector(Collector):
    """The metrics; what requests used is told to it as they end."""

    def __init__(self, engine: Load) -> None:
        self._engine = engine
        self._largest = 0
        self.prompt = Rate()  #: tokens that were computed, not those that were found
        self.cached = 0
        self.generated = Rate()

    def ended(self, prompt: int, cached: int, generated: int) -> None:
        """A request's tokens: its prompts', of them those that were found in the cache, and its replies'."""
        self.prompt.tokens += prompt - cached
        self.cached += cached
        self.generated.tokens += generated
        self._largest = max(self._largest, prompt + generated)

    def collect(self) -> Iterable[Metric]:
        """Called at each scrape."""
        engine = self._engine.counters
        counters = (
            ("prompt_tokens", "Number of prompt tokens processed.", self.prompt.tokens),
            ("prompt_tokens_cached", "Number of prompt tokens found in the cache.", self.cached),
            ("prompt_seconds", "Prompt process time.", self.prompt.seconds),
            ("tokens_predicted", "Number of generation tokens processed.", self.generated.tokens),
            ("tokens_predicted_seconds", "Predict process time.", self.generated.seconds),
            ("n_decode", "Total number of engine steps.", engine.steps),
            ("spec_decode_num_drafts", "Drafts that were checked.", engine.drafts),
            ("spec_decode_num_draft_tokens", "Drafted tokens that were checked.", engine.draft_tokens),
            ("spec_decode_num_accepted_tokens", "Drafted tokens that were kept.", engine.accepted_tokens),
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
