"""Which prefixes the cache holds, as hashes of token blocks.

A router finds the replica with the longest prefix by these hashes (``prefix_chain``). The record follows slots, host
memory and the disk tier by looking at what has changed in them: a running sequence costs one comparison a look, and one
hash for each block that it has filled. It only reads the accounting, and runs in the loop's thread.

A memory that can't be cut is of use at the lengths of its checkpoints and at its whole length. Only the blocks that end
there are published. They are rounded down to whole blocks: a prompt that parts within the last block counts as held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS, PrefixChain
from tailrace.cluster_protocol.state import MAX_HELD_BLOCKS, Tier
from tailrace.engine.kv_cache.held_blocks import HeldBlocks
from tailrace.engine.kv_cache.prefix_cache import PrefixCache
from tailrace.engine.kv_cache.slot import Slot

#: Blocks of files that one look hashes, at most: about 2 ms. The rest follows at the next looks.
_MAX_HASHED = 2048
#: Bytes of a file's packed token.
_TOKEN_BYTES = 4
#: Seconds between two looks at which checkpoints states have: a look hashes the states' tokens.
_CHECKPOINT_SECONDS = 1.0


class _SlotRecord(NamedTuple):
    """What was last seen in a slot."""

    content: int
    chain: PrefixChain


class _Stored(NamedTuple):
    """A state in host memory."""

    tokens: list[int]
    chain: list[int]


class HeldPrefixes:
    """See the module."""

    def __init__(
        self,
        cache: PrefixCache,
        identity: str,
        max_blocks: int = MAX_HELD_BLOCKS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``identity``: of the model (``PrefixChain``). ``max_blocks``: more aren't published; slots come first, then
        host memory and files, most recently used first.
        """
        self._cache, self._executor = cache
        self._identity = identity
        self._max_blocks = max_blocks
        self._clock = clock
        self._blocks = HeldBlocks()
        self._slots: dict[int, _SlotRecord] = {}
        self._host: dict[int, _Stored] = {}
        self._disk_revision = -1
        self._checkpoint_revision = 0
        self._checkpoints_at = 0.0
        #: Blocks of checkpoints that are whole states, by their keys.
        self._alone: dict[object, int] = {}
        self.is_complete = False  #: whether all files are hashed

    def look(self) -> tuple[dict[int, Tier], list[int]]:
        """The blocks that are held since the last look, or in another tier, and those that no longer are."""
        self._look_at_slots()
        self._look_at_host()
        self._look_at_disk()
        self._look_at_checkpoints()
        return self._blocks.take_changes()

    def _look_at_slots(self) -> None:
        for slot in self._cache.slots:
            record = self._slots.get(slot.index)
            if record is None or record.content != slot.content:
                record = self._slots[slot.index] = _SlotRecord(slot.content, PrefixChain(self._identity))
            elif len(slot.tokens) // BLOCK_TOKENS <= len(record.chain.hashes):
                continue
            if self._make_space(len(slot.tokens) // BLOCK_TOKENS):
                record.chain.extend(slot.tokens)
            self._publish_slot(slot, record)

    def _publish_slot(self, slot: Slot, record: _SlotRecord) -> None:
        usable = self._usable(record.chain.hashes, len(slot.tokens), self._checkpoint_lengths(slot.tokens))
        self._blocks.replace(("cells", slot.index), usable)

    def _make_space(self, blocks: int) -> bool:
        """Have a slot's blocks fit beside the others; False where slots alone have more than there may be."""
        if self._blocks.total + blocks <= self._max_blocks:
            return True
        sources = [*self._blocks.of_tier("disk"), *self._blocks.of_tier("host")]
        while self._blocks.total + blocks > self._max_blocks and sources:
            self._blocks.replace(sources.pop(0), [])
        return self._blocks.total + blocks <= self._max_blocks

    def _look_at_host(self) -> None:
        store = self._cache.prefix_store
        if store.keys() == self._host.keys():
            return
        for key in self._host.keys() - store.keys():
            del self._host[key]
            self._blocks.replace(("host", key), [])
        for key, tokens in reversed(list(store.items())):
            if key in self._host:
                continue
            fits = self._blocks.total + len(tokens) // BLOCK_TOKENS <= self._max_blocks
            stored = self._host[key] = _Stored(tokens, PrefixChain(self._identity).extend(tokens) if fits else [])
            self._publish_stored(key, stored)

    def _publish_stored(self, key: int, stored: _Stored) -> None:
        usable = self._usable(stored.chain, len(stored.tokens), self._checkpoint_lengths(stored.tokens))
        self._blocks.replace(("host", key), usable)

    def _look_at_disk(self) -> None:
        """Follow the folder's index: of too many files the most recently used ones, and some new ones at a time."""
        disk = self._executor.disk
        if disk is None or (self.is_complete and disk.index.revision == self._disk_revision):
            self.is_complete = True
            return
        index, budget = disk.index, _MAX_HASHED
        self._disk_revision, self.is_complete = index.revision, True
        for source in self._blocks.of_tier("disk"):
            if source[1] not in index:
                self._blocks.replace(source, [])
        for name in reversed(index.names):
            if ("disk", name) in self._blocks:
                continue
            packed = index.tokens(name)
            length = len(packed) // _TOKEN_BYTES
            if self._blocks.total + length // BLOCK_TOKENS > self._max_blocks:
                break
            if budget <= 0:
                self.is_complete = False
                break
            budget -= length // BLOCK_TOKENS
            chain = PrefixChain(self._identity).extend_packed(packed)
            self._blocks.replace(("disk", name), self._usable(chain, length, index.checkpoints(name)))

    # Memory that can't be cut

    def _look_at_checkpoints(self) -> None:
        """Publish slots and states anew where checkpoints have come or gone."""
        checkpoints = self._cache.checkpoints
        if checkpoints is None or checkpoints.revision == self._checkpoint_revision:
            return
        now = self._clock()
        if now - self._checkpoints_at < _CHECKPOINT_SECONDS:
            return
        self._checkpoints_at, self._checkpoint_revision = now, checkpoints.revision
        for slot in self._cache.slots:
            self._publish_slot(slot, self._slots[slot.index])
        for key, stored in self._host.items():
            self._publish_stored(key, stored)
        if not self._cache.rollback.has_cells:
            self._publish_alone()

    def _publish_alone(self) -> None:
        """Publish checkpoints that need no slot: each is a whole state in host memory."""
        checkpoints = self._cache.checkpoints
        assert checkpoints is not None
        for slot in self._cache.slots:
            hashes = self._slots[slot.index].chain.hashes
            for each in checkpoints.prefixes(slot.tokens):
                if 0 < each.length // BLOCK_TOKENS <= len(hashes):
                    self._alone[each.key] = hashes[each.length // BLOCK_TOKENS - 1]
        self._alone = {key: block for key, block in self._alone.items() if key in checkpoints}
        self._blocks.replace(("host", "checkpoints"), list(self._alone.values()))

    def _checkpoint_lengths(self, tokens: list[int]) -> list[int]:
        checkpoints = self._cache.checkpoints
        return [] if checkpoints is None else [each.length for each in checkpoints.prefixes(tokens)]

    def _usable(self, hashes: Sequence[int], length: int, checkpoints: Iterable[int]) -> list[int]:
        """Those of the blocks at whose ends a sequence can begin. ``length``: tokens of the whole state."""
        if not self._cache.rollback.state_floor(length):
            return list(hashes)
        ends = {size // BLOCK_TOKENS for size in (*checkpoints, length)}
        return [hashes[end - 1] for end in sorted(ends) if 0 < end <= len(hashes)]
