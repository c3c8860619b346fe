"""What two servers have to write alike: everything but ids, times and lengths."""

from __future__ import annotations

from benchmarks.harness.wire_bytes import comparable

_WIRE = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 30 Nov 2026 21:08:58 GMT\r\nx-request-id: req_3f54b5cfaf6c78f9\r\n\r\n"
    b'f3\r\ndata: {"id":"chatcmpl-2ceae9c4218a946a","created":1796072939,"ms":1.5e-3}\n\n\r\n0\r\n\r\n'
)


def test_ids_times_and_lengths_may_differ() -> None:
    other = (
        _WIRE.replace(b"21:08:58", b"07:10:00")
        .replace(b"req_3f54b5cfaf6c78f9", b"req_0000b5cfaf6c7aaa")
        .replace(b"2ceae9c4218a946a", b"1111e9c4218a946b")
        .replace(b"1796072939", b"1796072940")
        .replace(b"1.5e-3", b"1.123456789012345")
        .replace(b"f3\r\n", b"2cd\r\n")
    )
    assert other != _WIRE
    assert comparable(other) == comparable(_WIRE)


def test_other_headers_fields_and_framing_are_seen() -> None:
    for old, new in (
        (b"\r\n\r\nf3", b"\r\nserver: uvicorn\r\n\r\nf3"),
        (b'"created"', b'"made"'),
        (b"\n\n\r\n", b"\n\r\n"),
        (b"0\r\n\r\n", b""),
        (b"x-request-id", b"X-Request-Id"),
        (b"req_", b""),
    ):
        changed = _WIRE.replace(old, new)
        assert changed != _WIRE
        assert comparable(changed) != comparable(_WIRE), (old, new)
