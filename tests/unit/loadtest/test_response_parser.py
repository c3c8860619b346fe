"""An HTTP answer read out of the pieces in which it came."""

from __future__ import annotations

import pytest

from tailrace.loadtest.response_parser import ParsedResponse

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def read(*parts: bytes) -> ParsedResponse:
    return ParsedResponse(parts, [float(index) for index in range(len(parts))])


def test_an_event_was_there_when_its_last_piece_came() -> None:
    answer = read(CHUNKED, chunk(b"data: a\n\n"), chunk(b"data: b\n\ndata: c\n\n"), b"0\r\n\r\n")
    assert answer.ok
    assert answer.events() == [(1.0, b"a"), (2.0, b"b"), (2.0, b"c")]


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
def test_neither_pieces_nor_chunks_have_to_end_where_events_do(piece: int) -> None:
    body = chunk(b"data: fir") + chunk(b"st\n\nda") + chunk(b"ta: second\n\n") + b"0\r\n\r\n"
    raw = CHUNKED + body
    parts = [raw[start : start + piece] for start in range(0, len(raw), piece)]
    answer = read(*parts)
    assert answer.body == b"data: first\n\ndata: second\n\n"
    first, second = raw.index(b"st\n") + 2, raw.index(b"second\n") + 6
    assert answer.events() == [(float(first // piece), b"first"), (float(second // piece), b"second")]


def test_a_body_that_the_connection_ends_and_other_lines_of_events() -> None:
    answer = read(HEAD + b"\r\n: hello\r\n\r\nevent: x\r\ndata:a\r\n\r\n", b"data: b data: c\r\n\r\n", b"")
    assert answer.events() == [(0.0, b"a"), (1.0, b"b data: c")]


def test_what_was_left_is_read_as_far_as_it_goes() -> None:
    whole = chunk(b"data: a\n\n") + chunk(b"data: b\n\n")
    for cut in range(len(whole)):
        answer = read(CHUNKED + whole[:cut])
        assert b"data: a\n\ndata: b\n\n".startswith(answer.body)
    assert read(CHUNKED[:9]).status_line == "HTTP/1.1 "
    assert not read(CHUNKED[:9]).ok
    assert read().status_line == ""


def test_chunks_without_a_size_are_an_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        read(CHUNKED + b"data: a\n\r\n")
