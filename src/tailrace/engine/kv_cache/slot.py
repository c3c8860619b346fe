"""One slot of the KV cache, as the accounting has it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Slot:
    """One sequence's part of the KV cache: ``tokens`` are computed and stored in it.

    ``cells``: in a shared layout the cell of each token; empty in a partitioned one. ``occupied``: by a running
    sequence. ``floor``: the smallest length above 0 to which a sliding window's cells allow it to be cut.
    """

    index: int
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    occupied: bool = False
    floor: int = 0
