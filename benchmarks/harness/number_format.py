"""Formats numbers and ranges for tables and reports."""

from __future__ import annotations


def span(ends: tuple[float, float] | None) -> str:
    """A range as text; empty for None."""
    return "" if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def number(value: float) -> str:
    """A number with about three significant digits."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
