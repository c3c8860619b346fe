"""The token times of streams, and the statistics of a load: rates, first-token times, gaps between tokens."""

from __future__ import annotations

import itertools
import statistics
from bisect import bisect_right
from collections.abc import Sequence

import msgspec


class StreamTiming(msgspec.Struct):
    """The times of one stream, in seconds of one clock: of its request, and of each text in the reply.

    A text is one token, except for tokens without text (control tokens) and tokens that arrive joined.
    """

    sent_at: float
    token_times: list[float]
    text: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0  #: prompt tokens from the prefix cache
    ended_at: float = 0.0  #: time of the last event; 0 for a stream that the client left
    reply_tokens: int = 0  #: the server's count; 0 for a stream that the client left before the usage

    @property
    def gaps_ms(self) -> list[float]:
        """Milliseconds between successive texts."""
        return [1e3 * (after - before) for before, after in itertools.pairwise(self.token_times)]

    @property
    def tokens_per_text(self) -> float:
        """The mean number of tokens in one text."""
        return self.reply_tokens / len(self.token_times) if self.reply_tokens else 1.0

    @property
    def first_token_at(self) -> float:
        """The time of the first text; of the reply's end for a reply without text."""
        return self.token_times[0] if self.token_times else self.ended_at

    @property
    def first_token_seconds(self) -> float:
        """From the request to the first text."""
        return self.first_token_at - self.sent_at


class LoadStats(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics of one turn of a load. Rates in tokens a second, times in milliseconds."""

    streams: int
    tokens: int
    total_rate: float  #: all tokens over the time from the first request to the last token
    decode_rate: float  #: tokens over the time in which every stream decodes
    ttft_median: float
    ttft_max: float
    gap_low: float  #: lower quartile
    gap_median: float
    gap_p99: float
    gap_max: float


def load_stats(timings: Sequence[StreamTiming]) -> LoadStats:
    """The statistics of one turn. Raises ValueError when a stream has fewer than two tokens."""
    if any(len(timing.token_times) < 2 for timing in timings):
        raise ValueError("a stream got fewer than two tokens: nothing to measure")
    first_sent = min(timing.sent_at for timing in timings)
    last_token = max(timing.token_times[-1] for timing in timings)
    # The window in which every stream decodes.
    begin = max(timing.token_times[0] for timing in timings)
    end = min(timing.token_times[-1] for timing in timings)
    tokens_within = sum(
        timing.tokens_per_text * (_tokens_until(timing.token_times, end) - _tokens_until(timing.token_times, begin))
        for timing in timings
    )
    total = sum(timing.reply_tokens or len(timing.token_times) for timing in timings)
    first_token_ms = [1e3 * (timing.token_times[0] - timing.sent_at) for timing in timings]
    gaps = [gap for timing in timings for gap in timing.gaps_ms]
    return LoadStats(
        streams=len(timings),
        tokens=total,
        total_rate=total / (last_token - first_sent),
        decode_rate=tokens_within / (end - begin) if end > begin else 0.0,
        ttft_median=statistics.median(first_token_ms),
        ttft_max=max(first_token_ms),
        gap_low=sorted(gaps)[(len(gaps) - 1) // 4],
        gap_median=statistics.median(gaps),
        gap_p99=percentile(gaps, 0.99),
        gap_max=max(gaps),
    )


def percentile(values: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile; ``fraction`` is between 0 and 1. Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[round(fraction * (len(ordered) - 1))]


def _tokens_until(token_times: Sequence[float], at: float) -> float:
    """The number of tokens after the first one until ``at``, a time between the first and the last token.

    A part of a gap counts as that part of a token. With whole tokens, the stream that gets a step's token a little
    later than the others would count one less.
    """
    index = bisect_right(token_times, at) - 1
    if index == len(token_times) - 1:
        return index
    return index + (at - token_times[index]) / (token_times[index + 1] - token_times[index])


def median_stats(turns: Sequence[LoadStats]) -> LoadStats:
    """Each statistic's median over several turns."""
    values = {
        name: statistics.median(getattr(turn, name) for turn in turns)
        for name in LoadStats.__struct_fields__
        if name not in ("streams", "tokens")
    }
    return LoadStats(streams=turns[0].streams, tokens=turns[0].tokens, **values)
