"""Figures as they stand in the findings' sentences."""

from __future__ import annotations


def percent(part: float) -> str:
    """``0.42`` as ``42 %``."""
    return f"{100 * part:.0f} %"


def cores(amount: float) -> str:
    """CPU seconds per second: ``85 % of a core``, ``2.4 cores``."""
    return f"{percent(amount)} of a core" if amount < 1.95 else f"{amount:.1f} cores"


def seconds(amount: float) -> str:
    """A duration: ``0.35 s``, ``14 s``, ``3 min``."""
    if amount < 9.95:
        return f"{amount:.1f} s" if amount >= 0.95 else f"{1000 * amount:.0f} ms"
    return f"{amount:.0f} s" if amount < 600 else f"{amount / 60:.0f} min"


def size(count: float) -> str:
    """Bytes: ``2.1 MB``, ``14 GB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            value = count / factor
            return f"{value:.0f} {unit}" if value >= 99.5 else f"{value:.1f} {unit}"
    return f"{count:.0f} B"


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 request``, ``2 requests``."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"
