"""Finds markers that a piece of text may cut."""

from __future__ import annotations

from collections.abc import Iterable


def partial_marker_length(text: str, markers: Iterable[str]) -> int:
    """The length of the longest suffix of ``text`` that is an incomplete beginning of one of ``markers``."""
    longest = 0
    for marker in markers:
        first = marker[0]
        position = text.find(first, max(0, len(text) - len(marker) + 1))
        while position >= 0 and len(text) - position > longest:
            if marker.startswith(text[position:]):
                longest = len(text) - position
            position = text.find(first, position + 1)
    return longest


def is_marker_prefix(text: str, markers: Iterable[str]) -> bool:
    """Whether ``text`` is the beginning of one of ``markers``, or empty."""
    return any(marker.startswith(text) for marker in markers)
