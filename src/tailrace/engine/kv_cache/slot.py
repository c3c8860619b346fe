"""One slot of the KV cache, as the accounting has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

_contents = count()


@dataclass(slots=True)
class Slot:
    """One sequence's part of the KV cache: ``tokens`` are computed and stored in it.

    ``cells``: in a shared layout the cell of each token; empty in a partitioned one. ``occupied``: by a running
    sequence. ``floor``: the smallest length above 0 to which a sliding window's cells allow it to be cut.
    ``content``: a number that changes when its tokens become others, and not when they grow at the end.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    occupied: bool = False
    floor: int = 0
    content: int = field(default_factory=_contents.__next__)

    def renew(self) -> None:
        """Its tokens become others."""
        self.content = next(_contents)
