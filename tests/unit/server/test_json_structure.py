"""The bounds of a body's structure, which are checked before it is decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.chat.json_depth import is_too_deep
from tailrace.errors import InvalidRequest
from tailrace.server import json_structure
from tailrace.server.json_structure import check_structure

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.text(alphabet='ab"\\{}[],:\n') | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='a"\\{['), inner),
)


def counted(value: Any) -> tuple[int, int, int]:
    """Containers, members of objects, and commas."""
    if isinstance(value, dict):
        inner = [counted(one) for one in value.values()]
        own = (1, len(value), max(0, len(value) - 1))
    elif isinstance(value, list):
        inner = [counted(one) for one in value]
        own = (1, 0, max(0, len(value) - 1))
    else:
        return 0, 0, 0
    return tuple(map(sum, zip(own, *inner, strict=True)))  # type: ignore[return-value]  # three numbers


@pytest.mark.parametrize("size", [3, 7, 65_536])
@given(value=VALUES, spare=st.integers(-1, 0))
def test_what_is_in_strings_does_not_count(size: int, value: Any, spare: int) -> None:
    body = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_structure, "_SLICE", size)
        limits = dict(zip(("MAX_CONTAINERS", "MAX_MEMBERS", "MAX_VALUES"), counted(value), strict=True))
        for name, count in limits.items():
            patch.setattr(json_structure, name, count)
        check_structure(body)
        if spare < 0:
            for name, count in limits.items():
                if count:
                    patch.setattr(json_structure, name, count - 1)
                    with pytest.raises(InvalidRequest, match="too complex"):
                        check_structure(body)
                    patch.setattr(json_structure, name, count)


@pytest.mark.parametrize("levels", [255, 256, 257, 400])
@pytest.mark.parametrize("before", [0, 65_500, 200_000])
def test_depth_is_as_for_small_bodies(levels: int, before: int) -> None:
    body = b'{"a":"' + b"[" * before + b'","x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    assert is_too_deep(body) == (levels > 256)
    if levels <= 256:
        check_structure(body)
        return
    with pytest.raises(InvalidRequest, match="too deeply"):
        check_structure(body)


@pytest.mark.parametrize(
    "body",
    [b"[" + b"[]," * 300_000 + b"[]]", b'{"a":[' + b"1," * 1_500_000 + b"1]}", b'{"a":{' + b'"b":1,' * 300_000 + b"}}"],
)
def test_bombs_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_structure(body)
    assert caught.value.code == "body_too_complex"
