"""Blocks of prefixes by what holds them: in how many places of each tier a block is, and what has changed.

Accounting alone: it knows neither tokens nor the cache. ``held_prefixes`` fills it.
"""

from __future__ import annotations

from tailrace.cluster_protocol.state import TIERS, Tier

#: Bits of the count of one tier in a block's counts: more places than a tier has.
_COUNT_BITS = 20
_COUNT = (1 << _COUNT_BITS) - 1

#: A slot's number, a key of the prefix store, or the name of a file; with its tier.
Source = tuple[Tier, int | str]


class HeldBlocks:
    """See the module."""

    def __init__(self) -> None:
        self.total = 0  #: blocks of all sources; one that several have counts for each
        self._of: dict[Source, list[int]] = {}
        #: How often each block is in each tier: the count of tier number t is in the bits from ``_COUNT_BITS`` · t on.
        self._counts: dict[int, int] = {}
        self._touched: set[int] = set()  #: blocks whose counts have changed since the last look
        self._published: dict[int, Tier] = {}

    def __contains__(self, source: object) -> bool:
        return source in self._of

    def of_tier(self, tier: Tier) -> list[Source]:
        """The sources of the tier, those first that came first."""
        return [source for source in self._of if source[0] == tier]

    def replace(self, source: Source, blocks: list[int]) -> None:
        """The source has these blocks now, or has none and is forgotten."""
        before = self._of.get(source, [])
        # A running sequence's list grows.
        kept = len(before) if blocks[: len(before)] == before else 0
        unit = 1 << _COUNT_BITS * TIERS.index(source[0])
        counts = self._counts
        for block in before[kept:]:
            counts[block] -= unit
            if not counts[block]:
                del counts[block]
        for block in blocks[kept:]:
            counts[block] = counts.get(block, 0) + unit
        self._touched.update(before[kept:], blocks[kept:])
        self.total += len(blocks) - len(before)
        if blocks:
            self._of[source] = blocks
        else:
            self._of.pop(source, None)

    def take_changes(self) -> tuple[dict[int, Tier], list[int]]:
        """The blocks that are held since the last call, or in another tier, and those that no longer are."""
        held: dict[int, Tier] = {}
        removed: list[int] = []
        for block in self._touched:
            tier = self._tier(block)
            if tier == self._published.get(block):
                continue
            if tier is None:
                del self._published[block]
                removed.append(block)
            else:
                self._published[block] = held[block] = tier
        self._touched.clear()
        return held, removed

    def _tier(self, block: int) -> Tier | None:
        """The fastest tier that has the block."""
        counts = self._counts.get(block, 0)
        for number, tier in enumerate(TIERS):
            if counts >> _COUNT_BITS * number & _COUNT:
                return tier
        return None
