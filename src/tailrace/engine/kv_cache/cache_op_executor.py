"""Applies a plan's cache ops to the model's cache, and holds the offloaded prefix states.

The accounting (``cache``) is already where the last op leaves it; the executor makes the model follow. Where the model
can't, it reports which slots are empty instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import structlog

from tailrace.engine.backends.base import WHOLE, Backend, KVLayoutError, KVState
from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.cache_ops import CacheOp, Evict, Placement, Relayout, Swap
from tailrace.engine.kv_cache.checkpoint_memory import CheckpointMemory
from tailrace.engine.kv_cache.disk_tier import DiskOptions, DiskTier, Fetched, Savable
from tailrace.engine.kv_cache.prefix_store import OffloadResult
from tailrace.engine.kv_cache.state_file import Carried
from tailrace.engine.kv_cache.state_moves import Moved, StateMoves
from tailrace.machine.free_memory import MemoryGauge

#: Bytes of new memory that are touched after a step: milliseconds in a virtual machine.
_TOUCH_BYTES = 2 << 20
#: The same of memory for checkpoints, which is touched page by page, until the time for moves is over.
_CHECKPOINT_BYTES = 1 << 17
#: The same while nothing runs: a request that comes meanwhile waits for it.
_IDLE_TOUCH_BYTES = 8 << 20


@dataclass(slots=True)
class Applied:
    """What became of a plan's cache ops.

    ``lost``: slots that are empty although the accounting has tokens in them. ``failed``: the layout for which there
    was no memory; ``lost`` are slots of the previous layout then, and no later op was applied.
    """

    lost: set[int] = field(default_factory=set)
    failed: Relayout | None = None


class CacheExecutor:
    """Moves states between slots, host memory and the disk tier."""

    def __init__(
        self, backend: Backend, cache: KVCache, disk: DiskOptions | None, deliver: Callable[[Fetched], None]
    ) -> None:
        """``deliver``: called from the disk tier's thread with each state that was read from a file."""
        self._backend = backend
        self._cache = cache
        self._gauge = MemoryGauge()
        self._moves = StateMoves(backend, cache, self._gauge)
        self._checkpoint_memory = CheckpointMemory(cache.rollback.checkpoint_bytes, self._gauge)
        self._host_states: dict[int, KVState] = {}  #: by the prefix store's keys
        self._disk = _open_tier(disk, deliver) if disk is not None else None

    @property
    def disk(self) -> DiskTier | None:
        """The disk tier; None without one."""
        return self._disk

    def apply(self, ops: Iterable[CacheOp], *, beside: bool = False) -> Applied:
        """Apply the ops, in order. ``beside``: sequences decode, so long states are only begun to be loaded; their
        slots are in the accounting's ``loading``. Raises BackendError.
        """
        ops = list(ops)
        self._moves.drop_stale(kept={slot for op in ops if isinstance(op, Relayout) for slot in op.loading or ()})
        applied = Applied()
        lost = applied.lost
        for op in ops:
            lost.update(slot for slot in self._touched(op) if not self._moves.finish_load(slot))
            if isinstance(op, Placement):
                if self._place(op, lost, beside=beside):
                    lost.discard(op.slot)
                else:
                    lost.add(op.slot)
            elif isinstance(op, Evict):
                self._evict(op, lost)
            elif isinstance(op, Swap):
                self._backend.kv_swap(op.one, op.other)
                exchanged = {op.one: op.other, op.other: op.one}
                applied.lost = lost = {exchanged.get(slot, slot) for slot in lost}
            else:
                try:
                    failing = self._backend.kv_relayout(op.layout, op.slot_map)
                except KVLayoutError as error:
                    lost.update(error.lost, self._moves.give_up_loads())
                    applied.failed = op
                    self._forget_unapplied()
                    break
                moved = dict(op.slot_map)
                applied.lost = lost = {moved[slot] for slot in lost if slot in moved}.union(failing)
        return applied

    def advance(self, seconds: float, *, beside: bool) -> Moved:
        """Move a piece of what is to be moved, and more until ``seconds`` have passed. ``beside``: sequences run, so
        their step must wait little.
        """
        moved = self._moves.advance(seconds)
        if not (moved.more or moved.ended):
            touched = _TOUCH_BYTES if beside else _IDLE_TOUCH_BYTES
            moved.more = self._backend.kv_touch_ahead(self._cache.used_cells, touched)
            if not moved.more and (checkpoints := self._cache.checkpoints) is not None:
                touched = _CHECKPOINT_BYTES if beside else _IDLE_TOUCH_BYTES
                moved.more = self._checkpoint_memory.prepare(touched, seconds, checkpoints.free_bytes, beside=beside)
        self._count_checkpoints()
        return moved

    def empty(self, slots: Iterable[int]) -> None:
        """Empty slots in the model that the accounting has emptied."""
        for slot in slots:
            self._backend.kv_truncate(slot, 0)

    def discard(self, slot: int, tokens: list[int]) -> None:
        """Empty the slot of ``tokens``, whose content may be broken: no sequence may find it as a prefix."""
        self._cache.truncate(slot, 0)
        self._backend.kv_truncate(slot, 0)
        if self._cache.checkpoints is not None:
            self._cache.checkpoints.forget(tokens)

    def fetch(self, tokens: list[int], identity: int) -> bool:
        """Have the prefix of ``tokens`` read from the disk tier for the sequence ``identity``, if it is much longer
        there than in memory. Whether a ``Fetched`` will be delivered.
        """
        if self._disk is None:
            return False
        name = self._disk.find(tokens, self._cache.cached_prefix_len(tokens))
        if name is None:
            return False
        self._disk.fetch(name, identity)
        return True

    def store(self, fetched: Fetched) -> None:
        """Offer a state that was read from the disk tier to the prefix store."""
        if fetched.state is None:
            if self._disk is not None:
                self._disk.forget(fetched.tokens)
            return
        if (checkpoints := self._cache.checkpoints) is not None:
            for length, checkpoint in fetched.carried:
                checkpoints.add(fetched.tokens, length, checkpoint)
        store = self._cache.prefix_store
        self._offload(store.lend(fetched.tokens) or store.offload(fetched.tokens), fetched.state)

    def deliver_to(self, deliver: Callable[[Fetched], None]) -> None:
        """Have states from the disk tier delivered to another loop from now on."""
        if self._disk is not None:
            self._disk.deliver = deliver

    def save(self, deadline: float) -> tuple[int, int]:
        """Write the states of slots and host memory to the disk tier; how many, and their bytes.

        It ends at ``deadline`` (monotonic), and no op may follow.
        """
        if self._disk is None or not self._disk.close(deadline - time.monotonic()):
            return 0, 0
        return self._disk.save(self._savable(), deadline)

    def close(self) -> None:
        """Finish writing to the disk tier."""
        if self._disk is not None:
            self._disk.close()

    def _savable(self) -> Iterator[Savable]:
        """The states of this process, most recently used first. No sequence runs."""
        cell = self._backend.bytes_per_cell
        for slot in reversed(self._cache.cached_slots):
            size = len(slot.tokens) * cell + self._cache.rollback.checkpoint_bytes
            yield Savable(slot.tokens, size, partial(self._copy, slot.index, size), self._carried(slot.tokens))
        for key, tokens in reversed(list(self._cache.prefix_store.items())):
            state = self._host_states.get(key)
            if state is not None:
                yield Savable(tokens, state.size, partial(self._host_states.get, key), self._carried(tokens))

    def _carried(self, tokens: list[int]) -> Carried:
        """The checkpoints that go with the state of these tokens into a file."""
        checkpoints = self._cache.checkpoints
        if checkpoints is None:
            return ()
        while self._backend.kv_settle():
            pass
        return checkpoints.carried(tokens)

    def _place(self, op: Placement, lost: set[int], *, beside: bool) -> bool:
        """Make the slot hold the placement's prefix, or begin to. False when it is empty instead."""
        backend, slot, length = self._backend, op.slot, op.prefix_len
        found = length if op.checkpoint is None else WHOLE
        if op.source_slot is not None:
            done = op.source_slot not in lost and backend.kv_copy(op.source_slot, slot, found)
        elif op.offload_key is not None:
            state = self._host_states.get(op.offload_key)
            begun = beside and state is not None and self._moves.begin_load(slot, state, length)
            done = begun or (state is not None and backend.kv_load(slot, state, found))
            if self._cache.prefix_store.is_lent(op.offload_key):
                self._cache.prefix_store.forget(op.offload_key)
                self._host_states.pop(op.offload_key, None)
        else:
            done = slot not in lost and (op.checkpoint is not None or backend.kv_truncate(slot, length))
        if done and op.checkpoint is not None and not backend.kv_rollback(slot, op.checkpoint.state, length):
            self._moves.give_up_load(slot)
            done = False
        if done and op.new_checkpoint is not None:
            self.checkpoint(slot, op.new_checkpoint, length)
        return done or not length

    def checkpoint(self, slot: int, tokens: list[int], length: int) -> None:
        """Take a checkpoint of the slot, which holds the first ``length`` of ``tokens``. Nothing happens where there is
        one, or no memory for it. Raises BackendError.
        """
        checkpoints = self._cache.checkpoints
        if checkpoints is None or checkpoints.find(tokens, length) is not None:
            return
        memory, size = self._checkpoint_memory, self._cache.rollback.checkpoint_bytes
        if size <= checkpoints.free_bytes:
            if not memory.ready and not self._gauge.allows(size):
                return
        elif not memory.ready:
            checkpoints.make_space(size)  # The memory of those that are dropped is touched.
        try:
            state = self._backend.kv_checkpoint(slot, memory.take())
        except MemoryError:
            return
        checkpoints.add(tokens, length, state)
        self._count_checkpoints()

    def _count_checkpoints(self) -> None:
        """Set how many checkpoints a step may take beside replies. Where no memory is ready and none can be had ahead,
        one touches memory in its step.
        """
        if (checkpoints := self._cache.checkpoints) is not None:
            memory = self._checkpoint_memory
            checkpoints.at_once = memory.ready or (0 if memory.is_coming(checkpoints.free_bytes) else 1)

    def refresh_floors(self) -> None:
        """Ask the backend how far slots with sliding windows can be cut: computed tokens overwrite their cells."""
        if self._cache.rollback.window and not self._cache.rollback.by_checkpoints:
            for slot in self._cache.slots:
                slot.floor = self._backend.kv_floor(slot.index) if slot.tokens else 0

    def _evict(self, op: Evict, lost: set[int]) -> None:
        key = op.offload.key
        state = None
        if op.slot in lost:
            if not op.stays:
                lost.remove(op.slot)
            if key is not None:
                self._cache.prefix_store.discard(key)
        elif key is not None:
            state = self._moves.take_copy(op.leaving)
            if state is None and (state := self._save(op.slot, key)) is None:
                self._cache.prefix_store.discard(key)
        self._offload(op.offload, state)
        if not op.stays:
            self._backend.kv_truncate(op.slot, 0)

    def _save(self, slot: int, key: int) -> KVState | None:
        """A copy of the content of a slot that is evicted; None where there is no memory: it is computed again then."""
        return self._copy(slot, self._cache.prefix_store.size(key) * self._backend.bytes_per_cell)

    def _copy(self, slot: int, size: int) -> KVState | None:
        """A copy of the slot's content, of about ``size`` bytes; None where there is no memory for it."""
        if not self._gauge.allows(size):
            return None
        try:
            return self._backend.kv_save(slot)
        except MemoryError:
            return None

    def _offload(self, offload: OffloadResult, state: KVState | None) -> None:
        """Follow the prefix store: take the state in, drop superseded ones, write evicted ones to the disk tier."""
        states = self._host_states
        if offload.key is not None and state is not None:
            states[offload.key] = state
        # A state that was lost on the way has no bytes to drop or to write.
        for key in offload.superseded:
            states.pop(key, None)
        for key, tokens in offload.evicted:
            evicted = states.pop(key, None)
            if evicted is not None and self._disk is not None:
                self._disk.write(tokens, evicted, self._carried(tokens))

    def _touched(self, op: CacheOp) -> tuple[int, ...]:
        """The slots whose content the op reads or replaces. A load that an earlier op of the plan has begun ends
        first.
        """
        if isinstance(op, Placement):
            return (op.slot,) if op.source_slot is None else (op.slot, op.source_slot)
        if isinstance(op, Evict):
            return (op.slot,)
        if isinstance(op, Swap):
            return op.one, op.other
        return () if op.loading is None else self._moves.loading_slots

    def _forget_unapplied(self) -> None:
        """Bring prefix store and states together again, where the ops that would have done so weren't applied."""
        store = self._cache.prefix_store
        store.retain(self._host_states.keys())
        stored = {key for key, _ in store.items()}
        self._host_states = {key: state for key, state in self._host_states.items() if key in stored}


def _open_tier(disk: DiskOptions, deliver: Callable[[Fetched], None]) -> DiskTier | None:
    """The disk tier; None where its folder can't be made: a model is served without it then."""
    try:
        return DiskTier(disk, deliver)
    except OSError as error:
        structlog.get_logger().warning(
            "prefix states stay in memory alone: their folder can't be used", error=str(error)
        )
        return None
