"""How the facts of a model are written for a terminal."""

from __future__ import annotations

from tailrace.cli.model_rows import ModelRow

#: Tokens that people call 1k of a context.
_K = 1024


def count(parameters: int | None) -> str:
    """Parameters as people say them: ``135M``, ``1.2B``."""
    if parameters is None:
        return "?"
    if parameters >= 999_500_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M"


def tokens(number: int | None) -> str:
    """A context as people say it: ``128k``, or ``2000``."""
    if number is None:
        return "?"
    return f"{number // _K}k" if number >= _K and number % _K == 0 else str(number)


def fit(row: ModelRow) -> str:
    """Whether the model fits into memory: ``yes``, ``no``, or the context that does."""
    if row.fits == "smaller context":
        return f"with {tokens(row.fitting_context)}"
    return row.fits or "?"


def works(row: ModelRow) -> str:
    """The abilities that work, in words."""
    return " ".join(row.works.words) if row.works is not None else ""
