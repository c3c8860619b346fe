"""Measures speculation: replies that copy text, and replies that don't, with the setting ``auto`` and without drafts.

A model with a prediction layer (``--model`` takes a path) drafts with it and by prompt lookup, others by lookup alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.results import figure
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import BenchRequest

_COPIES_BOUND = 1.5
_OTHERS_BOUND = 0.99
_LENGTH = 128
#: A text with other names and numbers in each turn, so that a turn doesn't find the text of an earlier one.
_TEXT = (
    "The lighthouse at Cape {place} was built in {year} by two brothers from {town}, who had never seen the northern "
    "sea before. They carried the granite up the cliff with mules and a crane of their own design, and lost a winter's "
    "work when the storm of November took the scaffolding. When the lamp was lit for the first time, the fishermen of "
    "the bay rowed out at night to look at it from the water. It turned once in {seconds} seconds and could be seen "
    "for {miles} miles. Today a machine keeps the lamp, and the keeper's house is a small museum."
)
_PLACES = ("Merrow", "Wrath", "Farewell", "Otway", "Race", "Sable", "Horn")
_TOWNS = ("Lisbon", "Porto", "Genoa", "Bergen", "Cork", "Brest", "Vigo")
_STORIES = (
    "Write a long story about a fox who learns to sail, year {year}.",
    "Explain how a bicycle stays upright, as one would have in {year}.",
    "Write a letter to a landlord about a heater that broke in {year}.",
    "Describe a market in the town of {town}, early in the morning.",
)


def _words(turn: int) -> dict[str, object]:
    return {
        "place": _PLACES[turn % len(_PLACES)],
        "town": _TOWNS[turn * 3 % len(_TOWNS)],
        "year": 1801 + 7 * turn,
        "seconds": 9 + turn,
        "miles": 17 + turn,
    }


def _copies(turn: int, streams: int) -> list[str]:
    texts = [_TEXT.format(**_words(turn * streams + stream)) for stream in range(streams)]
    return [f"Repeat the following text word for word:\n\n{text}" for text in texts]


def _stories(turn: int, streams: int) -> list[str]:
    return [_STORIES[stream % len(_STORIES)].format(**_words(turn * streams + stream)) for stream in range(streams)]


def _rate(client: BenchClient, prompts: list[str], *, length: int, temperature: float, seed: int) -> float:
    """Tokens a second from the first token on, all streams together."""
    more = {"temperature": temperature, "seed": seed}
    timings = client.exchange(
        [
            BenchRequest(
                messages=[{"role": "user", "content": prompt}], max_tokens=length, exact_length=False, extra_fields=more
            )
            for prompt in prompts
        ]
    )
    tokens = sum(timing.reply_tokens - 1 for timing in timings)
    return tokens / (
        max(timing.token_times[-1] for timing in timings) - min(timing.token_times[0] for timing in timings)
    )


def _measure(options: Options) -> Measurements:
    found = Measurements(
        notes=[
            "Copied: greedy, 'repeat the following text word for word'. Others: stories, explanations, letters, drawn "
            "at temperature 0.8 with a seed, because this model's greedy replies soon repeat themselves."
        ]
    )
    with contextlib.ExitStack() as stack:
        clients = {
            name: stack.enter_context(servers.tailrace(options.model, options.threads, speculate=name))
            for name in ("off", "auto")
        }

        def sides(make: Callable[[int, int], list[str]], streams: int, temperature: float) -> list[float]:
            def side(client: BenchClient) -> Callable[[int], float]:
                return lambda turn: _rate(
                    client,
                    make(turn, streams),
                    length=options.tokens(_LENGTH),
                    temperature=temperature,
                    seed=turn,
                )

            rates = run_interleaved({name: side(client) for name, client in clients.items()}, options.turns)
            return paired_ratios(rates["auto"], rates["off"])

        for streams in options.streams((1, 4)):
            found.figures.append(
                figure(
                    f"copied replies with drafts ÷ without, {streams} at once",
                    sides(_copies, streams, 0.0),
                    bound=_COPIES_BOUND if streams == 1 else None,
                )
            )
        for streams in options.streams((1, 4, 8)):
            found.figures.append(
                figure(
                    f"other replies with drafts ÷ without, {streams} at once",
                    sides(_stories, streams, 0.8),
                    bound=_OTHERS_BOUND,
                )
            )
    return found


BENCHMARK = Benchmark(
    "speculation", "What does speculation gain where replies copy, and what does it cost elsewhere?", _measure
)

if __name__ == "__main__":
    run_alone(BENCHMARK)
