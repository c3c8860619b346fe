"""Ollama's durations."""

from __future__ import annotations

import math

import pytest

from tailrace.errors import InvalidRequest
from tailrace.server.dialects.ollama.keep_alive import seconds_of


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (-1, math.inf),
        (2.5, 2.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("90", 90.0),
        ("-1", math.inf),
    ],
)
def test_durations(given: float | str | None, seconds: float | None) -> None:
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("given", ["", "soon", "5x", "1s" * 100_000, "1" * 1000])
def test_what_is_no_duration(given: str) -> None:
    """A long one would stop the event loop for seconds."""
    with pytest.raises(InvalidRequest) as refused:
        seconds_of(given)
    assert refused.value.param == "keep_alive"
