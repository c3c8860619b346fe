"""The load of a benchmark, and what is computed from how it went: the same for every side that is measured."""

from __future__ import annotations

import itertools
import random
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import msgspec

#: Plain words of about one token each in every common vocabulary.
_WORDS = ("time", "people", "water", "light", "house", "music", "river", "garden", "paper", "story", "friend", "city")


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One streamed request, and when it is sent: at once, or ``after`` (stream, events): as soon as the stream at this
    place of the list has brought so many events.

    ``hang_up_after``: close after so many tokens. ``exact``: a reply of another length than ``max_tokens`` isn't what
    was asked for. ``more`` goes into the body as it is.
    """

    messages: list[dict[str, Any]]
    max_tokens: int
    hang_up_after: int | None = None
    after: tuple[int, int] | None = None
    exact: bool = True
    more: dict[str, Any] = {}


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """``streams`` concurrent greedy replies of ``output_tokens`` each to different prompts of about ``prompt_tokens``.

    ``max_tokens`` above ``output_tokens`` asks for more and hangs up after ``output_tokens``.
    """

    streams: int
    prompt_tokens: int
    output_tokens: int
    max_tokens: int | None = None

    def asks(self, turn: int) -> list[Ask]:
        """The requests of one turn, all sent at once."""
        asked = self.max_tokens or self.output_tokens
        return [
            Ask(
                messages=[{"role": "user", "content": prompt}],
                max_tokens=asked,
                hang_up_after=self.output_tokens if asked > self.output_tokens else None,
            )
            for prompt in self.prompts(turn)
        ]

    def prompts(self, turn: int) -> list[str]:
        """The user messages of one turn; another turn's share no beginning with them."""
        return [self._prompt(random.Random(f"{turn}/{stream}")) for stream in range(self.streams)]

    def _prompt(self, source: random.Random) -> str:
        words = " ".join(source.choice(_WORDS) for _ in range(max(1, self.prompt_tokens - 8)))
        return f"{words}. Write a long story about it."


class StreamTiming(msgspec.Struct):
    """One stream: seconds (of one clock) at which it was asked for and at which each of its texts was seen.

    A text is a token, but for tokens without any text (control tokens) and for several that came as one.
    """

    asked: float
    tokens: list[float]
    text: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0  #: of the prompt, found ready
    ended: float = 0.0  #: when the last event came; 0 when the stream was left before
    reply_tokens: int = 0  #: as the server counts them; 0 when the stream was left before it said so

    @property
    def gaps(self) -> list[float]:
        """Milliseconds between the texts."""
        return [1e3 * (after - before) for before, after in itertools.pairwise(self.tokens)]

    @property
    def tokens_a_text(self) -> float:
        """How many tokens one text stands for, on the average."""
        return self.reply_tokens / len(self.tokens) if self.reply_tokens else 1.0

    @property
    def first(self) -> float:
        """When the first token was seen: its text, or the reply's end when it has none."""
        return self.tokens[0] if self.tokens else self.ended


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one turn came to. Rates in tokens a second, times in milliseconds."""

    streams: int
    tokens: int
    total_rate: float  #: all tokens over the time from the first question to the last token
    decode_rate: float  #: tokens over the time in which every stream was running
    ttft_median: float
    ttft_max: float
    gap_low: float  #: a quarter is shorter
    gap_median: float
    gap_p99: float
    gap_max: float


def figures(timings: Sequence[StreamTiming]) -> Figures:
    """The figures of one turn. Raises ValueError when a stream got fewer than two tokens."""
    if any(len(timing.tokens) < 2 for timing in timings):
        raise ValueError("a stream got fewer than two tokens: nothing to measure")
    asked = min(timing.asked for timing in timings)
    last = max(timing.tokens[-1] for timing in timings)
    together = max(timing.tokens[0] for timing in timings), min(timing.tokens[-1] for timing in timings)
    within = sum(
        timing.tokens_a_text * (_written(timing.tokens, together[1]) - _written(timing.tokens, together[0]))
        for timing in timings
    )
    span = together[1] - together[0]
    total = sum(timing.reply_tokens or len(timing.tokens) for timing in timings)
    first = [1e3 * (timing.tokens[0] - timing.asked) for timing in timings]
    gaps = sorted(gap for timing in timings for gap in timing.gaps)
    return Figures(
        streams=len(timings),
        tokens=total,
        total_rate=total / (last - asked),
        decode_rate=within / span if span > 0 else 0.0,
        ttft_median=statistics.median(first),
        ttft_max=max(first),
        gap_low=gaps[(len(gaps) - 1) // 4],
        gap_median=statistics.median(gaps),
        gap_p99=gaps[min(len(gaps) - 1, round(0.99 * (len(gaps) - 1)))],
        gap_max=gaps[-1],
    )


def _written(moments: Sequence[float], at: float) -> float:
    """How many tokens beyond its first a stream has got ``at`` a moment between its first and its last; a part of a gap
    is as much of a token. Whole tokens would say that who gets a step's token a little later than others gets one less.
    """
    index = bisect_right(moments, at) - 1
    if index == len(moments) - 1:
        return index
    return index + (at - moments[index]) / (moments[index + 1] - moments[index])


def middle(turns: Sequence[Figures]) -> Figures:
    """Each figure's median over several turns."""
    values = {
        name: statistics.median(getattr(turn, name) for turn in turns)
        for name in Figures.__struct_fields__
        if name not in ("streams", "tokens")
    }
    return Figures(streams=turns[0].streams, tokens=turns[0].tokens, **values)
