"""Whose turn it is: of the callers that want work done, the one that has had the least of it comes first.

Work is counted in units, such as prompt tokens. A caller that had nothing to do gets no credit for that: it starts
level with the caller that has had the least, before it if that one was served last. So a greedy caller delays another
one by one piece of work, and callers that come one after the other delay none for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

#: A caller, or whatever else takes turns.
_Key = TypeVar("_Key", str, int)


@dataclass(slots=True)
class _Share:
    """What one caller has had."""

    units: int
    last: int  #: when it had its last piece of work, or else became active; twice the number of pieces so far
    pieces: int = 0


class Turns(Generic[_Key]):
    """The work that each active caller has had. Memory is bounded by the callers that are active together."""

    def __init__(self) -> None:
        self._shares: dict[_Key, _Share] = {}
        self._now = 0

    def order(self, active: Iterable[_Key]) -> list[_Key]:
        """The active callers, the next one first. All others are forgotten."""
        callers = dict.fromkeys(active)
        known = self._shares
        level = min((known[caller].units for caller in callers if caller in known), default=0)
        self._shares = shares = {caller: known.get(caller) or _Share(level, self._now - 1) for caller in callers}
        return sorted(callers, key=lambda caller: (shares[caller].units, shares[caller].last))

    def forget_all(self) -> None:
        """No caller is active."""
        self._shares.clear()

    def charge(self, caller: _Key, units: int) -> None:
        """An active caller has had a piece of work of so many units."""
        self._now += 2
        share = self._shares[caller]
        share.units += units
        share.last = self._now
        share.pieces += 1

    def pieces(self, caller: _Key) -> int:
        """How many pieces of work an active caller has had."""
        return self._shares[caller].pieces
