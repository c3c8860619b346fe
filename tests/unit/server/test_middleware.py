"""Canonical paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.server.middleware import canonical


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("", "/"),
        ("//", "/"),
        ("/v1", "/"),
        ("/v1/", "/"),
        ("/v1/v1/v1", "/"),
        ("/v1/models", "/models"),
        ("/models", "/models"),
        ("/models/", "/models"),
        ("//v1//models//", "/models"),
        ("/v1/v1/chat/completions", "/chat/completions"),
        ("/v1x/models", "/v1x/models"),
        ("/v2/models", "/v2/models"),
        ("/models/v1", "/models/v1"),
        ("/models/org/v1/name", "/models/org/v1/name"),
    ],
)
def test_canonical(path: str, expected: str) -> None:
    assert canonical(path) == expected


@given(st.lists(st.sampled_from(["/", "v1", "models", "v", "1", "x"])).map("".join))
def test_a_canonical_path_stays_what_it_is(path: str) -> None:
    once = canonical(path)
    assert canonical(once) == once
    assert "//" not in once
