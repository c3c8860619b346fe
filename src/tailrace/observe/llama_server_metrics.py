"""llama-server's metrics, under its names and without labels, so that its dashboards work.

Requests are counted when they end. Seconds are summed over requests, as llama-server does it, so with concurrent
requests the sum grows faster than a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from tailrace.observe.metric import Metric
from tailrace.protocol import EngineCounters


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


class LlamaServerTotals:
    """What is counted for these metrics at the end of each request."""

    def __init__(self) -> None:
        self.largest = 0  #: tokens of the largest request
        self.prompt = TokenRate()  #: computed prompt tokens, without cached ones
        self.cached = 0
        self.generated = TokenRate()

    def count_request(self, prompt: int, cached: int, generated: int) -> None:
        """Count a request's tokens: its prompt's, the cached part of them, and its replies'."""
        self.prompt.tokens += prompt - cached
        self.cached += cached
        self.generated.tokens += generated
        self.largest = max(self.largest, prompt + generated)


@dataclass(frozen=True)
class LlamaServerView:
    """These totals and the sums over all engines, at a scrape."""

    totals: LlamaServerTotals
    counters: EngineCounters
    running: int
    waiting: int


LLAMA_SERVER_METRICS: tuple[Metric[LlamaServerView], ...] = (
    Metric(
        "llamacpp:prompt_tokens_total",
        "counter",
        "Number of prompt tokens processed.",
        lambda v: v.totals.prompt.tokens,
    ),
    Metric(
        "llamacpp:prompt_tokens_cached_total",
        "counter",
        "Number of prompt tokens found in the cache.",
        lambda v: v.totals.cached,
    ),
    Metric("llamacpp:prompt_seconds_total", "counter", "Prompt process time.", lambda v: v.totals.prompt.seconds),
    Metric(
        "llamacpp:tokens_predicted_total",
        "counter",
        "Number of generation tokens processed.",
        lambda v: v.totals.generated.tokens,
    ),
    Metric(
        "llamacpp:tokens_predicted_seconds_total",
        "counter",
        "Predict process time.",
        lambda v: v.totals.generated.seconds,
    ),
    Metric("llamacpp:n_decode_total", "counter", "Total number of engine steps.", lambda v: v.counters.steps),
    Metric(
        "llamacpp:spec_decode_num_drafts_total", "counter", "Drafts that were verified.", lambda v: v.counters.drafts
    ),
    Metric(
        "llamacpp:spec_decode_num_draft_tokens_total",
        "counter",
        "Draft tokens that were verified.",
        lambda v: v.counters.draft_tokens,
    ),
    Metric(
        "llamacpp:spec_decode_num_accepted_tokens_total",
        "counter",
        "Draft tokens that were accepted.",
        lambda v: v.counters.accepted_tokens,
    ),
    Metric(
        "llamacpp:prompt_tokens_seconds",
        "gauge",
        "Average prompt throughput in tokens/s, since the last scrape.",
        lambda v: v.totals.prompt.since_last(),
    ),
    Metric(
        "llamacpp:predicted_tokens_seconds",
        "gauge",
        "Average generation throughput in tokens/s, since the last scrape.",
        lambda v: v.totals.generated.since_last(),
    ),
    Metric("llamacpp:requests_processing", "gauge", "Number of requests processing.", lambda v: v.running),
    Metric("llamacpp:requests_deferred", "gauge", "Number of requests deferred.", lambda v: v.waiting),
    Metric(
        "llamacpp:n_busy_slots_per_decode",
        "gauge",
        "Tokens of replies per engine step.",
        lambda v: v.counters.decode_tokens / v.counters.steps if v.counters.steps else 0.0,
    ),
    Metric("llamacpp:n_tokens_max", "gauge", "Largest number of tokens of a request.", lambda v: v.totals.largest),
)
