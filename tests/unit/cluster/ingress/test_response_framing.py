"""Where a response ends, however its bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.cluster.ingress.response_framing import HELD_CHUNK, ChunkedFraming, parse_head, split_head


def framed(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


@given(
    pieces=st.lists(st.binary(max_size=300) | st.integers(0, 3 * HELD_CHUNK).map(lambda size: b"x" * size), max_size=6),
    cuts=st.lists(st.integers(0, 400_000), max_size=12),
)
def test_all_bytes_pass_once_and_the_end_is_found(pieces: list[bytes], cuts: list[int]) -> None:
    data = framed(pieces)
    framing = ChunkedFraming()
    passed = b""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        if start == end:
            continue
        assert not framing.ended
        passed += framing.take(data[start:end])
        if framing.is_between_chunks and passed:
            assert passed.endswith(b"\r\n")
    assert framing.ended
    assert passed == data


def test_part_of_an_event_is_held_back() -> None:
    framing = ChunkedFraming()
    assert framing.take(b"3\r\nabc\r\n5\r\nab") == b"3\r\nabc\r\n"
    assert framing.is_between_chunks
    assert framing.take(b"cde\r\n") == b"5\r\nabcde\r\n"


@pytest.mark.parametrize("data", [b"zz\r\n", b"x" * 30, b"0\r\n\r\nmore", b"-1\r\n\r\n"])
def test_what_is_no_chunk_is_a_defect(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ChunkedFraming().take(data)


@pytest.mark.parametrize(
    ("head", "method", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", (200, 5, False, False)),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
            "POST",
            (200, None, True, True),
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "HEAD", (200, 0, False, False)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "OPTIONS", (204, 0, False, False)),
        (b"HTTP/1.1 102 Processing\r\n\r\n", "POST", (102, 0, False, False)),
        (b"HTTP/1.1 200 OK\r\n\r\n", "POST", (200, None, False, False)),
    ],
)
def test_heads(head: bytes, method: str, expected: tuple[int, int | None, bool, bool]) -> None:
    found = split_head(head + b"rest")
    assert found == (head, b"rest")
    assert parse_head(head, method)[:4] == expected


def test_a_head_without_end_is_a_defect() -> None:
    assert split_head(b"HTTP/1.1 200") is None
    with pytest.raises(ValueError, match="too long"):
        split_head(b"x" * 70_000)
