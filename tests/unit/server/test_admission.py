"""The bound on waiting requests, and whom a full queue refuses."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import TooManyRequests
from tailrace.server.admission import AdmissionQueue, QueuePlace


def queue(waiting: int = 8, tokens: int = 1000, capacity: int = 2) -> AdmissionQueue:
    return AdmissionQueue(max_waiting=waiting, max_waiting_tokens=tokens, capacity=lambda: capacity)


def fill(full: AdmissionQueue, caller: str) -> list[QueuePlace]:
    """As many places as the caller gets."""
    places: list[QueuePlace] = []
    while True:
        try:
            places.append(full.enter(caller))
        except TooManyRequests:
            return places


def test_so_many_wait_beside_those_that_run() -> None:
    full = queue(waiting=8, capacity=2)
    places = fill(full, "a")
    assert (len(places), full.requests, full.waiting, full.refused) == (10, 10, 8, 1)
    places[3].close()
    assert full.enter("a").requests == 1


def test_a_full_queue_refuses_the_callers_that_have_more_than_their_share() -> None:
    full = queue(waiting=8, capacity=2)
    assert len(fill(full, "greedy")) == 10
    assert len(fill(full, "other")) == 5, "half of the queue, and of what runs, is its share"
    assert len(fill(full, "third")) == 3
    with pytest.raises(TooManyRequests):
        full.enter("greedy")


def test_many_callers_lengthen_the_queue_by_a_bounded_factor() -> None:
    full = queue(waiting=8, capacity=2)
    for number in range(1000):
        fill(full, f"caller {number}")
    assert full.requests <= 40


def test_prompt_tokens_have_a_bound_and_shares_of_their_own() -> None:
    full = queue(waiting=100, tokens=1000)
    place = full.enter("a")
    place.claim(1, 900)
    second = full.enter("a")
    with pytest.raises(TooManyRequests, match="900 tokens"):
        second.claim(1, 200)
    assert (second.requests, second.tokens, full.tokens) == (1, 0, 900)
    full.enter("b").claim(1, 500)
    place.give_back(tokens=900)
    second.claim(1, 200)
    assert full.tokens == 700


def test_a_request_larger_than_the_queue_is_taken_alone() -> None:
    full = queue(waiting=8, tokens=1000)
    place = full.enter("a")
    place.claim(128, 100_000)
    assert full.requests == 10
    with pytest.raises(TooManyRequests):
        full.enter("a").claim(128, 5)
    full.enter("b").claim(2, 100)
    place.give_back(requests=128, tokens=100_000)
    place.close()
    assert (full.requests, full.tokens, full.callers) == (2, 100, 1)


def test_what_is_given_back_twice_counts_once() -> None:
    full = queue()
    place = full.enter("a")
    place.claim(3, 50)
    place.correct(50, 70)
    place.give_back(requests=2, tokens=60)
    place.give_back(requests=2, tokens=60)
    assert (full.requests, full.tokens, full.callers) == (0, 0, 0)
    place.close()
    place.close()
    place.correct(50, 70)
    assert (full.requests, full.tokens, full.callers) == (0, 0, 0)


def test_retry_after_follows_the_measured_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    full = queue(waiting=8, capacity=2)
    places = fill(full, "a")

    def retry_after() -> int | None:
        with pytest.raises(TooManyRequests) as caught:
            full.enter("a").claim(6, 0)
        return caught.value.retry_after

    assert retry_after() == 5, "nothing has ended yet"
    for _ in range(4):  # One ends every two seconds, and another comes.
        places.pop().close()
        now += 2.0
        places += fill(full, "a")
    assert retry_after() == 2
    places.pop().close()
    assert retry_after() == 8, "six requests want one free place: five have to end, as five did in 8 s"
    now += 500.0
    places += fill(full, "a")
    assert retry_after() == 5, "what ended long ago doesn't count"


def test_retry_after_is_at_most_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    full = queue(waiting=1000, capacity=2)
    places = fill(full, "a")
    places.pop().close()
    now += 50.0
    with pytest.raises(TooManyRequests) as caught:
        full.enter("a").claim(500, 0)
    assert caught.value.retry_after == 60


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 7), st.integers(0, 6), st.integers(0, 400))))
def test_counts_are_the_sums_of_the_open_places(steps: list[tuple[str, int, int, int]]) -> None:
    full = queue()
    places: list[QueuePlace] = []
    for caller, action, requests, tokens in steps:
        try:
            if action <= 2:
                places.append(full.enter(caller))
            elif places and action <= 4:
                places[tokens % len(places)].claim(max(1, requests), tokens)
            elif places and action == 5:
                places[tokens % len(places)].give_back(requests, tokens)
            elif places and action == 6:
                places[tokens % len(places)].correct(requests, tokens)
            elif places:
                places.pop(tokens % len(places)).close()
        except TooManyRequests:
            pass
        assert full.requests == sum(place.requests for place in places)
        assert full.tokens == sum(place.tokens for place in places) >= 0
        assert full.callers == len({place.caller for place in places if place.requests or place.tokens})
    for place in places:
        place.close()
    assert (full.requests, full.tokens, full.callers) == (0, 0, 0)


# Requests that wait for a model to be loaded


def test_a_parked_request_waits_however_much_runs() -> None:
    full = queue(waiting=8, capacity=2)
    first, second = full.enter("a"), full.enter("a")
    assert full.waiting == 0
    first.park()
    first.park()
    assert (full.waiting, full.parked) == (1, 1)
    places = [full.enter("a") for _ in range(3)]
    assert full.waiting == 3, "one is parked, and two are more than the engines run"
    first.unpark()
    first.unpark()
    assert (full.waiting, full.parked) == (3, 0)
    for place in (first, second, *places):
        place.park()
        place.close()
        place.close()
    assert (full.waiting, full.parked, full.requests, full.callers) == (0, 0, 0, 0)


def test_parked_requests_have_the_queues_bound() -> None:
    full = queue(waiting=3, capacity=100)
    places = [full.enter("a") for _ in range(50)]
    for place in places[:3]:
        place.park()
    with pytest.raises(TooManyRequests, match="3 requests wait already"):
        places[3].park()
    assert (places[3].parked, full.parked) == (0, 3)
    other = full.enter("b")
    other.park()
    assert full.parked == 4, "another caller has its share"


def test_one_request_may_always_wait_for_its_model() -> None:
    full = queue(waiting=0, capacity=4)
    first, second = full.enter("a"), full.enter("a")
    first.park()
    with pytest.raises(TooManyRequests):
        second.park()
