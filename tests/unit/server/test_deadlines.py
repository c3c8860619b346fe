"""Deadlines of settings and headers."""

from __future__ import annotations

import math
import time

import pytest

from tailrace.errors import DeadlineExceeded, InvalidRequest
from tailrace.server.deadlines import Deadlines, deadlines_of
from tailrace.settings import Settings


@pytest.fixture(autouse=True)
def at_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)


def test_without_settings_and_headers_there_are_none() -> None:
    assert deadlines_of({"x-stainless-timeout": "600"}, Settings()) is None


def test_a_header_shortens_the_setting_and_does_not_lengthen_it() -> None:
    settings = Settings(queue_seconds=10, total_seconds=60)
    headers = {"x-queue-timeout": "2.5", "x-request-timeout": "90"}
    assert deadlines_of(headers, settings) == Deadlines(100.0, 102.5, math.inf, 160.0)
    assert deadlines_of({"x-first-token-timeout": "7"}, Settings()) == Deadlines(100.0, math.inf, 107.0, math.inf)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", ""])
def test_a_header_that_is_no_time_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        deadlines_of({"x-request-timeout": value}, Settings())
    assert caught.value.param == "x-request-timeout"


@pytest.mark.parametrize(
    ("now", "queued", "waits", "code"),
    [
        (101.9, True, True, None),
        (102.0, True, True, "queue_timeout"),
        (102.0, False, True, None),
        (103.0, False, True, "first_token_timeout"),
        (103.0, False, False, None),
        (104.0, False, False, "request_timeout"),
        (104.0, True, True, "request_timeout"),
    ],
)
def test_the_error_is_that_of_the_time_that_counts(now: float, queued: bool, waits: bool, code: str | None) -> None:
    late = Deadlines(100.0, 102.0, 103.0, 104.0).late(now, queued=queued, waits_for_token=waits)
    assert (late.code if isinstance(late, DeadlineExceeded) else None) == code
    if late is not None:
        assert late.status == 504
