"""Content encodings of request bodies (RFC 9110, section 8.4.1): encoded bytes in, bounded pieces out.

A few kilobytes can expand to gigabytes, so a decoder returns pieces of at most ``PIECE`` bytes, and the caller stops
when there are too many.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from tailrace.errors import InvalidRequest, UnsupportedContentEncoding

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

#: Bytes that a decoder gives at once: about half a millisecond's work, after which other clients get their turn.
PIECE = 262_144
#: Bytes that a decoder takes at once. It copies what it hasn't read yet for each piece.
_FED = 16_384
#: Max gzip members or zstd frames of a body. Empty ones take time and give nothing.
_MAX_MEMBERS = 10_000
#: zstd keeps a window of what it has decoded. 8 MB is the largest that RFC 9659 lets a sender choose.
_WINDOW_LOG = 23

#: The supported encodings, in the order of the ``accept-encoding`` that a refusal carries.
CONTENT_ENCODINGS = ("gzip", "deflate", "zstd")


def content_encoding(header: str | None) -> str | None:
    """The one coding that a ``content-encoding`` header names; None for a body that is sent as it is.

    Raises UnsupportedContentEncoding for a coding that isn't in ``CONTENT_ENCODINGS``, and for several at once.
    """
    named = [name.strip().lower() for name in (header or "").split(",")]
    named = [{"x-gzip": "gzip"}.get(name, name) for name in named if name and name != "identity"]
    if not named:
        return None
    if len(named) > 1 or named[0] not in CONTENT_ENCODINGS:
        shown = ", ".join(named)[:100]
        known = ", ".join(CONTENT_ENCODINGS)
        raise UnsupportedContentEncoding(
            f"A body with 'Content-Encoding: {shown}' can't be decoded here: send it plain, or as one of {known}.",
            codings=CONTENT_ENCODINGS,
        )
    return named[0]


class BodyDecoder:
    """Decodes one body. A body of several gzip members or zstd frames is their contents joined."""

    def __init__(self, coding: str) -> None:
        """``coding`` is one of ``CONTENT_ENCODINGS``."""
        self._coding = coding
        self._make: Callable[[], _Member] = {"gzip": _Gzip, "deflate": _Deflate, "zstd": _Zstd}[coding]
        self._member: _Member | None = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that ``data``, the next bytes of the body, decodes to. Raises InvalidRequest for damaged ones.

        A piece may be empty: the caller gets its turn after each member, however little is in it.
        """
        for start in range(0, len(data), _FED):
            yield from self._feed(data[start : start + _FED])

    def _feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member is None:
                self._members += 1
                if self._members > _MAX_MEMBERS:
                    raise self._damaged(f"it has over {_MAX_MEMBERS} parts")
                self._member = self._make()
            try:
                yield from self._member.feed(data)
            except (zlib.error, ZstdError, EOFError) as error:
                raise self._damaged(str(error)) from None
            if not self._member.whole:
                return
            data, self._member = self._member.rest, None
            yield b""

    def finish(self) -> None:
        """The body has ended. Raises InvalidRequest when it ends in the middle."""
        if self._member is not None:
            raise self._damaged("it ends too early")

    def _damaged(self, why: str) -> InvalidRequest:
        return InvalidRequest(
            f"The request's body isn't what 'Content-Encoding: {self._coding}' says: {why}.", code="invalid_encoding"
        )


class _Member(Protocol):
    """One gzip member, zlib stream or zstd frame."""

    whole: bool  #: its end has been read
    rest: bytes  #: what stood behind the end

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that ``data`` decodes to."""
        ...


class _Gzip:
    def __init__(self, window: int = zlib.MAX_WBITS | 16) -> None:
        self.whole, self.rest = False, b""
        self._decoder = zlib.decompressobj(window)

    def feed(self, data: bytes) -> Iterator[bytes]:
        decoder = self._decoder
        piece = decoder.decompress(data, PIECE)
        while piece:
            yield piece
            # A whole piece may have left some of its input, or of its output, behind.
            piece = decoder.decompress(decoder.unconsumed_tail, PIECE) if len(piece) == PIECE else b""
        self.whole, self.rest = decoder.eof, decoder.unused_data


class _Deflate(_Gzip):
    """RFC 9110 means zlib's format. Some clients send what it wraps instead, and browsers have always read both."""

    def __init__(self) -> None:
        super().__init__(zlib.MAX_WBITS)
        self._head: bytes | None = b""  #: the first of the two bytes that show the format; None once it is known

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._head is not None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return
            self._head = None
            if data[0] & 0x0F != 8 or int.from_bytes(data[:2], "big") % 31:
                self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        yield from super().feed(data)


class _Zstd:
    def __init__(self) -> None:
        self.whole, self.rest = False, b""
        self._decoder = ZstdDecompressor(options={DecompressionParameter.window_log_max: _WINDOW_LOG})

    def feed(self, data: bytes) -> Iterator[bytes]:
        decoder = self._decoder
        while not decoder.eof:
            if piece := decoder.decompress(data, PIECE):
                yield piece
            data = b""
            if decoder.needs_input:
                break
        self.whole, self.rest = decoder.eof, decoder.unused_data if decoder.eof else b""
