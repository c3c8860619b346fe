"""What one request has charged to the allowance of its key: tokens are charged as they become known."""

from __future__ import annotations

import asyncio

from tailrace.server.keys.allowance import Place


class TokenCharge:
    """The charge of one request. Nothing is charged before ``begin``, nor for a request without a key."""

    __slots__ = ("_charged", "_place", "has_begun")

    def __init__(self, place: Place | None) -> None:
        self._place = place
        self.has_begun = False
        self._charged = 0  #: tokens so far

    async def begin(self, tokens: int, done: asyncio.Future[None]) -> None:
        """The request is served, with so many prompt tokens: it holds its place until it is ``done``, and its tokens
        are charged. Raises TooManyRequests where the key has fewer tokens left.
        """
        if (place := self._place) is None:
            return
        if not done.done():
            self._charged = await place.begin(tokens)
        if not done.done():
            place.hold()
            done.add_done_callback(lambda _: place.release())
        self.has_begun = True

    def update(self, tokens: int) -> None:
        """The request has so many tokens altogether; those that are new are charged."""
        if self._place is not None and self.has_begun and tokens > self._charged:
            self._place.allowance.charge(tokens - self._charged)
            self._charged = tokens
