"""Whether it matters which of eight slots the running sequences have, after random arrivals and departures."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.harness import servers
from benchmarks.harness.pairs import in_turns, ratios
from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.harness.results import figure
from tailrace.loadtest.client import BenchClient
from tailrace.loadtest.load import Ask, Load, StreamTiming

_SLOTS = 8
_STAY = 4
#: Who doesn't stay is gone by this token of those who do; from there on they are timed.
_FROM = 96
_BOUND = 0.97


def asks(turn: int, tokens: int) -> tuple[list[Ask], list[Ask]]:
    """The same staying requests, among others that come and go, and by themselves.

    The staying ones are the last of the first list and the whole of the second.
    """
    source = random.Random(turn)
    load = Load(streams=_SLOTS + 4, prompt_tokens=32, output_tokens=tokens)
    prompts = load.asks(turn)
    staying, passing = prompts[:_STAY], prompts[_STAY:]
    # Somebody is there first, so that the staying ones, sent while it runs, find any slots.
    here = [_brief(ask, source.randint(8, 40), None) for ask in passing[: _SLOTS - _STAY]]
    first = source.randrange(len(here))
    later = [
        _brief(ask, source.randint(4, 24), (source.randrange(len(here)), source.randint(2, 8)))
        for ask in passing[_SLOTS - _STAY :]
    ]
    mixed = [_after(ask, (first, source.randint(1, 8))) for ask in staying]
    return [*here, *later, *mixed], staying


def steady_rate(timings: Sequence[StreamTiming]) -> float:
    """Tokens a second of these streams together from where each has its 96th token. Raises ValueError when they
    don't run together.
    """
    start = max(timing.tokens[_FROM] for timing in timings)
    end = min(timing.tokens[-1] for timing in timings)
    if end <= start:
        raise ValueError("the streams that stay don't run together")
    within = sum(timing.tokens_a_text * sum(start < moment <= end for moment in timing.tokens) for timing in timings)
    return within / (end - start)


def _brief(ask: Ask, tokens: int, after: tuple[int, int] | None) -> Ask:
    return Ask(messages=ask.messages, max_tokens=tokens, after=after)


def _after(ask: Ask, after: tuple[int, int]) -> Ask:
    return Ask(messages=ask.messages, max_tokens=ask.max_tokens, after=after)


def _measure(options: Options) -> Findings:
    tokens = _FROM + 48 + options.tokens(96)
    with servers.tailrace(options.model, options.threads, "--parallel", str(_SLOTS)) as client:
        rates = in_turns(
            {
                "mixed": lambda turn: _mixed(client, turn, tokens),
                "packed": lambda turn: steady_rate(client.exchange(asks(2 * turn + 1, tokens)[1])),
            },
            options.turns + 2,
        )
    return Findings(
        figures=[
            figure(
                f"any {_STAY} of {_SLOTS} slots ÷ {_STAY} packed ones, decoding",
                ratios(rates["mixed"], rates["packed"]),
                bound=_BOUND,
            ),
            figure("any slots", rates["mixed"], unit="tok/s"),
            figure("packed slots", rates["packed"], unit="tok/s"),
        ],
        notes=[
            f"{_STAY} requests that stay begin among {_SLOTS} that come and go at random; timed from their token "
            f"{_FROM} on, when only they run."
        ],
    )


def _mixed(client: BenchClient, turn: int, tokens: int) -> float:
    mixed, _ = asks(2 * turn, tokens)
    return steady_rate(client.exchange(mixed)[-_STAY:])


PART = Part("slots", "Does it matter which slots the running sequences have?", _measure)

if __name__ == "__main__":
    standalone(PART)
