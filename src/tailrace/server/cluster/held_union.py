"""The prefixes that the engines of this server hold together. A block that several hold has the fastest tier."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from tailrace.cluster_protocol.prefix_chain import pack_hashes, unpack_hashes
from tailrace.cluster_protocol.state import MAX_HELD_BLOCKS, TIERS, HeldBlocks
from tailrace.protocol import PrefixReport


class HeldUnion:
    """See the module. Engines are named by any key."""

    def __init__(self) -> None:
        self._of_engine: dict[Hashable, dict[int, int]] = {}  #: numbers of tiers, by block
        self._changed: set[int] = set()  #: blocks that have changed since the last ``take_changes``
        self._published: dict[int, int] = {}

    def apply(self, engine: Hashable, report: PrefixReport) -> None:
        """Take in an engine's report."""
        own = self._of_engine.setdefault(engine, {})
        removed = unpack_hashes(report.removed)
        for block in removed:
            own.pop(block, None)
        self._changed.update(removed)
        for tier, packed in enumerate(report.held):
            blocks = unpack_hashes(packed)
            own.update(dict.fromkeys(blocks, tier))
            self._changed.update(blocks)

    def drop(self, engine: Hashable) -> None:
        """The engine has ended, and its cache with it."""
        self._changed.update(self._of_engine.pop(engine, ()))

    def take_changes(self) -> tuple[list[HeldBlocks], bytes]:
        """The blocks that are new or in another tier since the last call, and the packed ones that are gone."""
        held: list[tuple[int, int]] = []
        removed: list[int] = []
        engines = list(self._of_engine.values())
        for block in self._changed:
            tier = min((own[block] for own in engines if block in own), default=None)
            before = self._published.get(block)
            if tier is None and before is not None:
                del self._published[block]
                removed.append(block)
            elif tier is not None and tier != before:
                self._published[block] = tier
                held.append((block, tier))
        self._changed.clear()
        return _by_tier(held), pack_hashes(removed)

    def published(self) -> list[HeldBlocks]:
        """All blocks, as of the last ``take_changes``."""
        return _by_tier(self._published.items())


def _by_tier(held: Iterable[tuple[int, int]]) -> list[HeldBlocks]:
    """Parts of one tier each, and of ``MAX_HELD_BLOCKS`` at most."""
    blocks: list[list[int]] = [[] for _ in TIERS]
    for block, tier in held:
        blocks[tier].append(block)
    return [
        HeldBlocks(tier, pack_hashes(each[start : start + MAX_HELD_BLOCKS]))
        for tier, each in zip(TIERS, blocks, strict=True)
        for start in range(0, len(each), MAX_HELD_BLOCKS)
    ]
