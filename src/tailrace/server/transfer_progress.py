"""A connection's two transfers: the body that comes from its client, and the bytes that wait for the client.

It counts, and says when a transfer is stuck. ``http_protocol`` acts on that.
"""

from __future__ import annotations

from tailrace.server.transfer_pace import TransferPace

#: A body may come in this many pieces, whatever their size; in more only if they have some size. Each costs a callback.
_FREE_PIECES = 8_192
_MIN_PIECE = 32


class BodyProgress:
    """The coming of one request's body. Times are of the event loop's clock, in seconds."""

    __slots__ = ("_pace", "_pieces", "_seen", "bytes", "framing_bytes")

    def __init__(self) -> None:
        self._pace = TransferPace()
        self._clear()

    def _clear(self) -> None:
        self.bytes = 0
        self.framing_bytes = 0  #: at least those between pieces of the body: chunks' extensions, headers behind it
        self._seen = 0  #: of ``bytes``, those at the last look
        self._pieces = 0

    def begin(self, now: float) -> None:
        """A head has ended: a body may follow."""
        self._pace.begin(now)
        self._clear()

    def add(self, count: int) -> None:
        """A piece of the body has come. Raises ValueError where its pieces are too many and too small."""
        self.framing_bytes = 0
        self.bytes += count
        self._pieces += 1
        if self.has_many_pieces and self.bytes < _MIN_PIECE * self._pieces:
            raise ValueError("the body's pieces are too small")

    @property
    def has_many_pieces(self) -> bool:
        """Whether so many pieces have come that they must have some size."""
        return self._pieces > _FREE_PIECES

    def pause(self, seconds: float) -> None:
        """For so long nothing was read of it, and the server was the reason."""
        self._pace.pause(seconds)

    def is_stuck(self, now: float, limit: float) -> bool:
        """Look at what has come since the last look: whether that is nothing for ``limit`` seconds, or too little."""
        self._pace.move(now, self.bytes - self._seen)
        self._seen = self.bytes
        return self._pace.is_stuck(now, limit)


class SendProgress:
    """The bytes that wait for a client. Times are of the event loop's clock, in seconds."""

    __slots__ = ("_pace", "_written", "unsent")

    def __init__(self) -> None:
        self._pace = TransferPace()
        self.unsent = 0  #: bytes that waited at the last look
        self._written = 0  #: bytes that the running stream had written at the last look

    def begin_reply(self) -> None:
        """A reply is complete: the next stream has written nothing."""
        self._written = 0

    def is_stuck(self, now: float, limit: float, unsent: int, written: int) -> bool:
        """Look at what waits now: whether the client has taken nothing for ``limit`` seconds, or too little.
        ``written``: by the running stream so far.
        """
        if unsent:
            if self.unsent:
                # A reply that isn't a stream is written in one go, and counts as no progress in that second.
                self._pace.move(now, self.unsent + max(0, written - self._written) - unsent)
            else:
                self._pace.begin(now)
            if self._pace.is_stuck(now, limit):
                return True
        self.unsent, self._written = unsent, written
        return False

    def seconds_left(self, now: float) -> float:
        """About how long the client will take for what waits; 0 while that can't be told."""
        return self._pace.seconds_left(now, self.unsent)
