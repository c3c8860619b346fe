"""Sequences that wait for a prefix from the disk tier. A disk that hangs must not hang requests."""

from __future__ import annotations

from tailrace.engine.sequence import Sequence

#: Seconds that a sequence waits.
_MAX_SECONDS = 10.0


class FileWaits:
    """The waiting sequences, oldest first. ``now``: seconds of one clock."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Sequence, float]] = {}  #: by id: each, and since when

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def begin(self, sequence: Sequence, now: float) -> None:
        """The sequence waits from now on."""
        self._waiting[sequence.id] = sequence, now

    def end(self, identity: int) -> Sequence | None:
        """The sequence, which waits no longer; None where none of this id waits."""
        found = self._waiting.pop(identity, None)
        return None if found is None else found[0]

    def take_late(self, now: float) -> list[Sequence]:
        """Those that have waited too long: they wait no longer, and their prompts have to be computed."""
        late = [sequence for sequence, since in self._waiting.values() if now - since >= _MAX_SECONDS]
        for sequence in late:
            del self._waiting[sequence.id]
        return late
