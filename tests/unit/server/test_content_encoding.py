"""Compressed bodies are decoded in bounded pieces, however their bytes are split."""

from __future__ import annotations

import gzip
import random
import sys
import zlib
from collections.abc import Callable

import pytest

from tailrace.errors import InvalidRequest, UnsupportedContentEncoding
from tailrace.server.content_encoding import CONTENT_ENCODINGS, PIECE, BodyDecoder, content_encoding

if sys.version_info >= (3, 14):
    from compression.zstd import compress as zstd_compress
else:
    from backports.zstd import compress as zstd_compress

TEXTS = [b"", b"{}", b'{"a": "' + b"x" * 3_000_000 + b'"}', random.Random(0).randbytes(700_000)]


def raw_deflate(text: bytes) -> bytes:
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(text) + made.flush()


FORMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip of two members": ("gzip", lambda text: gzip.compress(text[:10]) + gzip.compress(text[10:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without a head": ("deflate", raw_deflate),
    "zstd": ("zstd", zstd_compress),
    "zstd of two frames": ("zstd", lambda text: zstd_compress(text[:10]) + zstd_compress(text[10:])),
}


def decoded(coding: str, data: bytes, step: int) -> list[bytes]:
    decoder = BodyDecoder(coding)
    pieces = [piece for start in range(0, len(data), step) for piece in decoder.feed(data[start : start + step])]
    decoder.finish()
    return pieces


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", TEXTS, ids=len)
@pytest.mark.parametrize("step", [1, 1000, 10_000_000])
def test_what_was_compressed_comes_out(form: str, text: bytes, step: int) -> None:
    coding, compress = FORMS[form]
    data = compress(text)
    if len(data) / step > 100_000:
        data, text = compress(text[:5000]), text[:5000]
    pieces = decoded(coding, data, step)
    assert b"".join(pieces) == text
    assert all(len(piece) <= PIECE for piece in pieces)


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_body_is_a_400(form: str) -> None:
    coding, compress = FORMS[form]
    data = compress(b"some text that is long enough to be cut " * 20)
    for damaged in (data[:-3], data[: len(data) // 2], b"\x00\x01\x02" + data, data + b"rubbish"):
        with pytest.raises(InvalidRequest, match=coding):
            decoded(coding, damaged, 100)


def test_a_bomb_costs_no_more_than_what_is_taken_of_it() -> None:
    bomb = gzip.compress(bytes(200_000_000), compresslevel=1)
    pieces = BodyDecoder("gzip").feed(bomb)
    assert sum(len(next(pieces)) for _ in range(4)) == 4 * PIECE


def test_a_zstd_window_larger_than_the_rfc_allows_is_refused() -> None:
    """The frame's head alone makes a decoder take that much memory."""
    magic, no_single_segment, window_of_1_gb = b"\x28\xb5\x2f\xfd", b"\x00", b"\xa0"
    with pytest.raises(InvalidRequest, match="zstd"):
        decoded("zstd", magic + no_single_segment + window_of_1_gb + b"\x01\x00\x00", 100)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        ("zstd", "zstd"),
        ("identity, gzip", "gzip"),
    ],
)
def test_the_coding_is_named_by_the_header(header: str | None, coding: str | None) -> None:
    assert content_encoding(header) == coding


@pytest.mark.parametrize("header", ["br", "compress", "gzip, gzip", "gzip, zstd", "rot13", "a" * 5000])
def test_other_codings_are_refused_with_those_that_are_known(header: str) -> None:
    with pytest.raises(UnsupportedContentEncoding) as refused:
        content_encoding(header)
    assert refused.value.headers["accept-encoding"] == ", ".join(CONTENT_ENCODINGS)
    assert len(refused.value.message) < 500
