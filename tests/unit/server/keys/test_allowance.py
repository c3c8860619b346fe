"""What a key may still use: concurrent requests, tokens a minute, tokens a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tailrace.errors import TooManyRequests
from tailrace.server.keys.allowance import Allowance, Place
from tailrace.server.keys.keys_file import KeyRecord
from tailrace.server.keys.limit_headers import limit_headers


class Time:
    """A clock that stands still, and a date that goes with it."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, 23, 0, tzinfo=UTC)) -> None:
        self.seconds = 0.0
        self._start = start

    def clock(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.seconds)


def made(time: Time, **limits: int) -> tuple[Allowance, list[tuple[str, int]]]:
    used: list[tuple[str, int]] = []
    record = KeyRecord(name="k", id="1", sha256="", created=time.now(), **limits)  # type: ignore[arg-type]  # limits alone
    return Allowance(record, lambda day, tokens: used.append((day, tokens)), clock=time.clock, now=time.now), used


def entered(allowance: Allowance) -> Place:
    place = Place(allowance)
    place.enter()
    return place


def test_without_limits_nothing_is_refused() -> None:
    allowance, used = made(Time())
    for _ in range(1000):
        entered(allowance)
        allowance.charge(1_000_000)
    assert allowance.running == 1000
    assert sum(tokens for _, tokens in used) == 1_000_000_000
    assert limit_headers(allowance, "openai") == []


def test_places_are_taken_and_given_back_once() -> None:
    allowance, _ = made(Time(), concurrency=2)
    first, second = entered(allowance), entered(allowance)
    refused = Place(allowance)
    with pytest.raises(TooManyRequests, match="2 of 2 requests running") as error:
        refused.enter()
    assert error.value.retry_after == 1
    assert error.value.code == "rate_limit_exceeded"
    refused.release()
    assert allowance.running == 2
    first.hold()  # Its generation goes on in the background.
    first.release()
    assert allowance.running == 2
    first.release()
    assert allowance.running == 1
    second.release()
    second.release()
    assert allowance.running == 0


def test_tokens_of_a_minute_come_back_evenly() -> None:
    time = Time()
    allowance, _ = made(time, tokens_per_minute=600)
    allowance.require(600)
    with pytest.raises(TooManyRequests, match="Send a shorter one") as error:
        allowance.require(601)
    allowance.charge(600)
    with pytest.raises(TooManyRequests) as error:
        allowance.check()
    assert error.value.retry_after == 1
    with pytest.raises(TooManyRequests) as error:
        allowance.require(100)
    assert error.value.retry_after == 10
    time.seconds += 10
    allowance.require(100)
    time.seconds += 1000
    allowance.require(600)
    limit = allowance.tokens()
    assert limit is not None
    assert (limit.limit, limit.remaining, limit.reset) == (600, 600, 0.0)


def test_a_running_reply_makes_a_debt_that_is_paid_before_the_next_request() -> None:
    time = Time()
    allowance, _ = made(time, tokens_per_minute=60)
    allowance.charge(180)
    for second in range(120):
        with pytest.raises(TooManyRequests) as error:
            allowance.check()
        assert error.value.retry_after == 121 - second
        time.seconds += 1
    time.seconds += 1
    allowance.check()


def test_a_day_ends_at_midnight() -> None:
    time = Time()
    allowance, used = made(time, tokens_per_day=1000)
    allowance.charge(999)
    allowance.check()
    allowance.charge(1)
    with pytest.raises(TooManyRequests, match="midnight") as error:
        allowance.check()
    assert error.value.retry_after == 3600
    time.seconds += 3600
    allowance.check()
    allowance.charge(5)
    assert used == [("2030-01-01", 999), ("2030-01-01", 1), ("2030-01-02", 5)]


def test_a_days_use_of_other_servers_counts() -> None:
    time = Time()
    allowance, _ = made(time, tokens_per_day=1000)
    allowance.charge(10)
    allowance.set_day("2029-12-31", 5000)
    allowance.check()
    allowance.set_day("2030-01-01", 1000)
    with pytest.raises(TooManyRequests):
        allowance.check()


def test_headers_show_the_limit_that_is_reached_first() -> None:
    time = Time()
    allowance, _ = made(time, concurrency=4, tokens_per_minute=600, tokens_per_day=1000)
    entered(allowance)
    allowance.charge(300)
    assert dict(limit_headers(allowance, "openai")) == {
        b"x-ratelimit-limit-requests": b"4",
        b"x-ratelimit-remaining-requests": b"3",
        b"x-ratelimit-reset-requests": b"0ms",
        b"x-ratelimit-limit-tokens": b"600",
        b"x-ratelimit-remaining-tokens": b"300",
        b"x-ratelimit-reset-tokens": b"30s",
    }
    allowance.charge(650)
    time.seconds += 60
    found = dict(limit_headers(allowance, "openai"))
    assert found[b"x-ratelimit-limit-tokens"] == b"1000"
    assert found[b"x-ratelimit-remaining-tokens"] == b"50"
    assert found[b"x-ratelimit-reset-tokens"] == b"59m0s"
    names = [name for name, _ in limit_headers(allowance, "anthropic")]
    assert names[:3] == [
        b"anthropic-ratelimit-requests-limit",
        b"anthropic-ratelimit-requests-remaining",
        b"anthropic-ratelimit-requests-reset",
    ]
    assert b"anthropic-ratelimit-tokens-remaining" in names
