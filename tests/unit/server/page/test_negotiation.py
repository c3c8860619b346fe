"""Which clients get the page, and in which form."""

from __future__ import annotations

import pytest

from tailrace.server.page.negotiation import best_encoding, wants_html


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html", True),
        ("TEXT/HTML ; charset=utf-8", True),
        ("application/json, text/html;q=0.1", True),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("", False),
        (None, False),
    ],
)
def test_browsers_want_html(accept: str | None, wanted: bool) -> None:
    assert wants_html(accept) is wanted


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("br;q=0, gzip;q=0.5", "gzip"),
        ("*", "br"),
        ("identity", None),
        ("gzip;q=0", None),
        ("", None),
        (None, None),
    ],
)
def test_the_smallest_form_that_is_accepted(accepted: str | None, chosen: str | None) -> None:
    assert best_encoding(accepted, ["br", "gzip"]) == chosen
