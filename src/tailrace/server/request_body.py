"""Request bodies, however they are framed and compressed, within the limit of their size."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from tailrace.errors import BodyTooLarge, RequestError
from tailrace.server.content_encoding import BodyDecoder, content_encoding

#: A refused body is still read, and dropped, up to this multiple of the limit: closing the connection of a client that
#: writes would reset it before the client has read the answer.
_DRAIN_FACTOR = 8


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, decoded. Raises BodyTooLarge over ``limit`` bytes, counted as they were sent and as they were
    decoded, UnsupportedContentEncoding, and InvalidRequest for a body that its coding doesn't fit.
    """
    body = _Body(limit)
    sent = 0
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        body.refuse(_too_large(limit))
    try:
        coding = content_encoding(request.headers.get("content-encoding"))
        body.decoder = BodyDecoder(coding) if coding is not None else None
    except RequestError as error:
        body.refuse(error)
    async for chunk in request.stream():
        sent += len(chunk)
        if body.refusal is None:
            await body.add(chunk)
        elif sent > limit * _DRAIN_FACTOR:
            break
    return body.whole()


class _Body:
    """The part of a body that has arrived, or the reason of its refusal."""

    def __init__(self, limit: int) -> None:
        self.decoder: BodyDecoder | None = None
        self.refusal: RequestError | None = None
        self._limit = limit
        self._size = 0
        self._pieces: list[bytes] = []

    def refuse(self, error: RequestError) -> None:
        """Drop the body. The first error counts."""
        self.refusal = self.refusal or error
        self._pieces.clear()

    async def add(self, chunk: bytes) -> None:
        """Take the client's next bytes."""
        if self.decoder is None:
            self._keep(chunk)
            return
        try:
            for piece in self.decoder.feed(chunk):
                if not self._keep(piece):
                    return
                await asyncio.sleep(0)  # Between two pieces other clients' tokens go out.
        except RequestError as error:
            self.refuse(error)

    def whole(self) -> bytes:
        """The body, at its end. Raises the refusal."""
        if self.refusal is None and self.decoder is not None:
            self.decoder.finish()
        if self.refusal is not None:
            raise self.refusal
        return b"".join(self._pieces)

    def _keep(self, piece: bytes) -> bool:
        self._size += len(piece)
        if self._size > self._limit:
            self.refuse(_too_large(self._limit))
            return False
        self._pieces.append(piece)
        return True


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request's body is over the limit of {limit} bytes; send less, or raise --max-body-mb.")
