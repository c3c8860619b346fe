"""The rates of several sides under the same loads."""

from __future__ import annotations

import pytest

from benchmarks.harness.rates import decode_rates, measure
from tailrace.loadtest.bench_client import BenchError
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import StreamTiming, load_stats


def test_prompts_are_others_each_turn_unless_they_are_to_be_the_same() -> None:
    def prompts(*, same: bool) -> list[list[str]]:
        seen: list[list[str]] = []

        def side(load: LoadProfile, turn: int) -> list[StreamTiming]:
            seen.append(load.prompts(turn))
            return [StreamTiming(0.0, [1.0, 2.0])]

        measure({"a": side}, [LoadProfile(streams=1, prompt_tokens=20, output_tokens=2)], 2, same_prompts=same)
        return seen

    first, *others = prompts(same=True)
    assert others == [first, first]
    assert len({str(seen) for seen in prompts(same=False)}) == 3


def test_streams_that_never_ran_together_are_no_rate() -> None:
    apart = load_stats([StreamTiming(0.0, [1.0, 1.1]), StreamTiming(0.0, [2.0, 2.1])])
    together = load_stats([StreamTiming(0.0, [1.0, 1.1]), StreamTiming(0.0, [1.0, 1.1])])
    assert decode_rates([together]) == pytest.approx([20.0])
    with pytest.raises(BenchError, match="2 streams never ran together"):
        decode_rates([together, apart])
