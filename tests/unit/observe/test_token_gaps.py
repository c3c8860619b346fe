"""Gaps between the tokens of streams, counted once a step, against a count of each stream by itself."""

from __future__ import annotations

import random

from tailrace.observe.token_gaps import TokenGaps


def test_gaps_of_steady_streams() -> None:
    gaps = TokenGaps()
    for now in (1.0, 1.5, 2.0):
        gaps.step([7, 8], now)
    assert (gaps.seconds.count, gaps.seconds.total) == (4, 2.0), "the first token of a stream has no gap"


def test_a_step_without_tokens_is_none() -> None:
    gaps = TokenGaps()
    for ids, now in (([7], 1.0), ([], 1.5), ([7], 2.0)):
        gaps.step(ids, now)
    assert (gaps.seconds.count, gaps.seconds.total) == (1, 1.0)


def test_streams_that_begin_end_and_pause() -> None:
    """As each stream's own clock would count them, several tokens of a step as one."""
    chance = random.Random(7)
    gaps, last, expected = TokenGaps(), dict[int, float](), list[float]()
    for step in range(2000):
        now = step * 0.5
        first = step // 40
        ids = [identity for identity in range(first, first + 4) if chance.random() < 0.9]
        if chance.random() < 0.2:
            ids += ids[:2]
        gaps.step(ids, now)
        expected += [now - last[identity] for identity in dict.fromkeys(ids) if identity in last]
        last |= dict.fromkeys(ids, now)
    assert gaps.seconds.count == len(expected)
    assert gaps.seconds.total == sum(expected)


def test_streams_that_have_ended_are_forgotten() -> None:
    gaps = TokenGaps()
    for identity in range(10_000):
        gaps.step([identity], float(identity))
    assert len(gaps._last) < 200


def test_a_new_engine_begins_anew() -> None:
    gaps = TokenGaps()
    gaps.step([7], 1.0)
    gaps.clear()
    gaps.step([7], 9.0)
    assert gaps.seconds.count == 0
