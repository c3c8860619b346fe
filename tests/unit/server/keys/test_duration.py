"""Times on the command line and in headers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tailrace.errors import ConfigurationError
from tailrace.server.keys.duration import expiry, short_duration

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("30 D", timedelta(days=30)),
        ("2w", timedelta(days=14)),
        ("1y", timedelta(days=365)),
        ("2030-01-31", timedelta(days=30)),
        ("2030-01-31T12:00:00", timedelta(days=30, hours=12)),
        ("2030-01-31T12:00:00+02:00", timedelta(days=30, hours=10)),
    ],
)
def test_expiry(text: str, after: timedelta) -> None:
    assert expiry(text, NOW) == NOW + after


@pytest.mark.parametrize("text", ["", "30", "d", "-5d", "0d", "2029-12-31", "soon", "999999y", "1.5d"])
def test_what_is_no_expiry(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--expires"):
        expiry(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (6.2, "7s"), (360, "6m0s"), (12300, "3h25m0s"), (3600, "1h0m0s")],
)
def test_short_duration(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text
