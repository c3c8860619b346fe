"""What a client accepts: the HTML page, and compressed files (RFC 9110, section 12.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def wants_html(accept: str | None) -> bool:
    """Whether ``text/html`` itself is in the Accept header, as browsers write it for a page. ``*/*`` doesn't count:
    programs send it.
    """
    return any(name == "text/html" and quality > 0 for name, quality in _weighted(accept))


def best_encoding(accept_encoding: str | None, offered: Sequence[str]) -> str | None:
    """The first of the ``offered`` content codings that the client accepts; None for the file as it is."""
    weights = dict(_weighted(accept_encoding))
    return next((name for name in offered if weights.get(name, weights.get("*", 0.0)) > 0), None)


def _weighted(header: str | None) -> Iterator[tuple[str, float]]:
    """The names of a header and the quality of each. A quality that is no number counts as 0."""
    for part in (header or "").split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((value for value in parameters if value.startswith("q=")), "q=1").removeprefix("q=")
        try:
            yield name, float(quality)
        except ValueError:
            yield name, 0.0
