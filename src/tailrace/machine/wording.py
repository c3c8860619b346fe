"""Numbers of things in the sentences that a plan's reasons and refusals are."""

from __future__ import annotations


def count(number: int, noun: str, several: str = "") -> str:
    """``1 core``, ``2 cores``; ``several`` where the plural isn't made with an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {several or noun + 's'}"


def are(number: int, noun: str) -> str:
    """``is 1 core``, ``are 2 cores``."""
    return f"{'is' if number == 1 else 'are'} {count(number, noun)}"


def size(number: int) -> str:
    """Bytes in gigabytes, as ``1.5 GB``."""
    return f"{number / 1e9:.1f} GB"
