"""Counts and sizes as they stand in the sentences of a plan: its reasons and its error messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 core``, ``2 cores``; ``plural`` is for nouns whose plural isn't made with an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def there_are(number: int, noun: str) -> str:
    """``there is 1 core``, ``there are 2 cores``."""
    return f"there {'is' if number == 1 else 'are'} {counted(number, noun)}"


def gigabytes(size: int) -> str:
    """A size in bytes as ``1.5 GB``."""
    return f"{size / 1e9:.1f} GB"


def memory_size(size: int) -> str:
    """A size in bytes as ``1.5 GB``, or as ``150 MB`` where it is small."""
    return gigabytes(size) if size >= 1_000_000_000 else f"{size / 1e6:.0f} MB"
