"""What one request has charged to the allowance of its key: tokens are charged as they become known."""

from __future__ import annotations

from tailrace.server.keys.allowance import Place


class TokenCharge:
    """The charge of one request. Nothing is charged before ``begin``, nor for a request without a key."""

    __slots__ = ("_charged", "_has_begun", "place")

    def __init__(self, place: Place | None) -> None:
        self.place = place
        self._has_begun = False
        self._charged = 0  #: tokens so far

    def begin(self) -> None:
        """The request is served: its tokens are charged from now on."""
        self._has_begun = True

    def update(self, tokens: int) -> None:
        """The request has so many tokens altogether; those that are new are charged."""
        if self.place is not None and self._has_begun and tokens > self._charged:
            self.place.allowance.charge(tokens - self._charged)
            self._charged = tokens
