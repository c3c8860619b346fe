"""Request bodies, however they are framed and compressed, within the limits of their size and memory."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from tailrace.errors import BodyTooLarge
from tailrace.server.body_memory import BodyLease
from tailrace.server.content_encoding import BodyDecoder, content_encoding


async def read_body(request: Request, limit: int, lease: BodyLease | None = None) -> bytes:
    """The whole body, decoded. ``lease`` counts its memory.

    Raises BodyTooLarge over ``limit`` bytes, counted as they were sent and as they were decoded,
    UnsupportedContentEncoding, InvalidRequest for a body that its coding doesn't fit, ServerBusy and RequestTimeout.
    What can be refused by the head is refused before the body is read: then the connection drops the body.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    coding = content_encoding(request.headers.get("content-encoding"))
    decoder = BodyDecoder(coding) if coding is not None else None
    body = bytearray()
    sent = 0

    async def take(piece: bytes) -> None:
        nonlocal body
        if len(body) + len(piece) > limit:
            raise _too_large(limit)
        body += piece
        if lease is not None:
            lease.grow(len(piece))
            if lease.must_wait:
                await lease.wait()

    try:
        async for chunk in request.stream():
            sent += len(chunk)
            if sent > limit:
                raise _too_large(limit)
            if decoder is None:
                await take(chunk)
                continue
            for piece in decoder.feed(chunk):
                await take(piece)
                await asyncio.sleep(0)  # Between two pieces other clients' tokens go out.
        if decoder is not None:
            decoder.finish()
        return bytes(body)
    finally:
        body.clear()  # An error's traceback may hold this frame for long.
        if lease is not None:
            lease.read()


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request's body is over the limit of {limit} bytes; send less, or raise --max-body-mb.")
