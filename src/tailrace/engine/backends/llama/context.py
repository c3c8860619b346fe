"""The llama.cpp context that replies are computed in, and its KV cache: layouts, and the state of single slots.

It computes no batches: ``forward_pass`` does, on the context's pointer.
"""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from functools import partial

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.base import BackendError, KVState
from tailrace.engine.backends.llama.cell_memory import CellMemory
from tailrace.engine.backends.llama.coming_checkpoints import ComingCheckpoints
from tailrace.engine.backends.llama.model_params import context_params
from tailrace.engine.backends.llama.options import RopeOptions
from tailrace.engine.backends.llama.sequence_state import HEAD_BYTES, cells_bytes, kept_rows, with_streams
from tailrace.engine.backends.llama.state_copies import PIECE_BYTES, StateCopies, StateLoad, StateSave, begin_load
from tailrace.engine.backends.llama.thread_pools import ThreadPools
from tailrace.engine.backends.llama.transfers import MAX_PIECE_BYTES, DeviceTransfers
from tailrace.engine.kernels import loader
from tailrace.engine.kv_cache.layout import CELL_PADDING, Layout
from tailrace.engine.kv_cache.rollback import Rollback
from tailrace.engine.kv_cache.state_memory import allocate_state
from tailrace.errors import ModelError
from tailrace.models.kv_shape import CacheTypes

#: Tokens that llama.cpp computes in one graph, at most: larger batches are split.
_MAX_UBATCH = 512
#: Bytes of reused memory that a checkpoint may leave unused.
_WASTED_BYTES = 65_536
#: Tokens by which a slot may grow before its state is copied: a sequence may go on meanwhile.
_GROWTH_TOKENS = 64
#: Flags for a state with everything in it, and for the part that can't be cut.
_WHOLE = 0
_PARTIAL = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


class LlamaContext:
    """A context whose KV cache has one layout at a time. ``pointer`` is llama.cpp's; a change of layout replaces it."""

    def __init__(
        self,
        model: llama.llama_model_p,
        layout: Layout,
        *,
        slots: int,
        max_batch: int,
        bytes_per_cell: int,
        cache_types: CacheTypes,
        rope: RopeOptions,
        pools: ThreadPools,
        reserved_cells: int = 0,
        snapshots: int = 0,
        is_local: bool = False,
        on_devices: bool = False,
    ) -> None:
        """``slots``: sequences of a shared layout. ``pools``: the threads of each new context. ``reserved_cells``: a
        shared layout has addresses for so many, so that it grows in place. ``snapshots``: see ``Rollback``.
        ``is_local``: the KV cache is on the CPU, also that of layers on other devices. ``on_devices``: some of it is on
        a device.

        Raises ModelError when llama.cpp can't make the context.
        """
        self._model = model
        self._is_recurrent = bool(llama.llama_model_is_recurrent(model))
        #: Whether the end of a slot can't be removed.
        self.needs_checkpoints = self._is_recurrent or bool(llama.llama_model_is_hybrid(model))
        #: Tokens of a sliding window; 0: there is none.
        self.window = max(0, int(llama.llama_model_n_swa(model)))
        self.slots = slots
        self._max_batch = max_batch
        self._pools = pools
        self.bytes_per_cell = bytes_per_cell
        self._cache_types = cache_types
        self._rope = rope
        self._is_local = is_local
        self.transfers = DeviceTransfers(has_device=on_devices and loader.status() == "on")
        self.coming = ComingCheckpoints()
        self._recurrent_bytes = 0  #: of a slot's recurrent part in a state
        self.reserved_cells = reserved_cells  #: 0: the addresses can't be had
        #: Fewer than asked for where llama.cpp has none for this architecture.
        self._snapshots = snapshots if self.needs_checkpoints else 0
        self._cell_memory = CellMemory(bytes_per_cell)
        self.layout = layout
        self.pointer: llama.llama_context_p | None = None
        self.opened = 0  #: how many contexts there have been
        self._open(layout)

    def _open(self, layout: Layout) -> None:
        reserved = max(layout.total, self.reserved_cells if layout.shared else 0)
        self.pointer = self._make(layout, reserved)
        if self.pointer is None and reserved > layout.total:
            self.reserved_cells = 0
            self.pointer = self._make(layout, layout.total)
        if self.pointer is None:
            raise ModelError(
                f"llama.cpp can't make a context of {layout.total} tokens for this model, with K in "
                f"{self._cache_types.k} and V in {self._cache_types.v} (its log above says why); "
                "a smaller --kv-tokens or --ctx takes less memory"
            )
        self.opened += 1
        self._pools.attach(self.pointer)
        self._snapshots = int(llama.llama_n_rs_seq(self.pointer))
        self._memory = llama.llama_get_memory(self.pointer)
        self.layout = layout
        self._cell_memory.touch_initial()

    def _make(self, layout: Layout, cells: int) -> llama.llama_context_p | None:
        """A context of this layout with addresses for ``cells`` cells; None where llama.cpp can't make it."""
        params = context_params(
            cells=cells,
            slots=layout.partitions or self.slots,
            batch=self._max_batch,
            cache_types=self._cache_types,
            rope=self._rope,
            unified=layout.shared,
        )
        params.n_ubatch = min(_MAX_UBATCH, self._max_batch)
        params.n_rs_seq = self._snapshots
        params.offload_kqv = not self._is_local
        if self._is_local:
            # Left to itself, llama.cpp gives it up where attention isn't computed on its layer's device.
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        with self._cell_memory.made(layout, cells):
            return llama.llama_init_from_model(self._model, params)

    @property
    def _streams(self) -> int:
        return max(1, self.layout.partitions)

    @property
    def has_memory(self) -> bool:
        """Whether the model has a KV cache or a recurrent state; encoders have none and can't generate."""
        return self._memory is not None

    def touch_ahead(self, used_cells: int, max_bytes: int) -> bool:
        """See ``Backend.kv_touch_ahead``."""
        return self.layout.shared and self._cell_memory.touch_ahead(used_cells, max_bytes)

    def size(self, slot: int) -> int:
        """Bytes of the slot's content."""
        return int(llama.llama_state_seq_get_size(self.pointer, slot)) if self.has_content(slot) else 0

    def replace(self, layout: Layout) -> None:
        """Make an empty context of this layout. Raises ModelError without the memory: there is no context then."""
        # The old context is freed first, because there may be no memory for two.
        self.close()
        self._open(layout)

    def swap(self, first: int, second: int) -> None:
        """See ``Backend.kv_swap``."""
        states = [(to, self.save(at)) for at, to in ((first, second), (second, first)) if self.has_content(at)]
        self.clear_slot(first)
        self.clear_slot(second)
        for slot, state in states:
            if not self.restore(slot, state):
                raise BackendError(f"a state of {state.size} bytes can't be put into slot {slot} of {self.layout}")

    def save(self, slot: int) -> KVState:
        """See ``Backend.kv_save``. 15 ms for 2,000 tokens of the starter model."""
        if self.transfers.has_device and self._defers_copies:
            # llama.cpp would ask a worker for each run of cells in each tensor: thousands of round trips where the
            # cells of several replies lie between each other.
            size = int(llama.llama_state_seq_get_size(self.pointer, slot))
            copies = self._copy_out(slot, allocate_state(size), _WHOLE)
            while not copies.done:
                copies.advance()
            return copies.state
        return self._read(slot, _WHOLE)

    def checkpoint(self, slot: int, reused: KVState | None = None) -> KVState:
        """See ``Backend.kv_checkpoint``."""
        if not (self.transfers.has_device and self._defers_copies):
            return self._read(slot, _PARTIAL, reused)
        if reused is not None:
            self.coming.forget(reused)
        size = int(llama.llama_state_seq_get_size_ext(self.pointer, slot, _PARTIAL))
        state = self._memory_for(size, reused)
        self.coming.add(self._copy_out(slot, state, _PARTIAL))
        return state

    @property
    def piece_tokens(self) -> int:
        """See ``Backend``."""
        piece = MAX_PIECE_BYTES if self.transfers.has_device else PIECE_BYTES
        return max(1, piece // self.bytes_per_cell)

    def begin_save(self, slot: int) -> StateSave | None:
        """See ``Backend.kv_begin_save``."""
        if not self.has_content(slot):
            return None
        size = self.size(slot)
        at_once = 0 if self._defers_copies else size
        if self._defers_copies and (self.needs_checkpoints or self.window):
            at_once = int(llama.llama_state_seq_get_size_ext(self.pointer, slot, _PARTIAL))
        memory = allocate_state(size + _GROWTH_TOKENS * self.bytes_per_cell, beside=True)
        return StateSave(memory, range(max(0, size - at_once), size if at_once else 0), partial(self._begin_save, slot))

    def _begin_save(self, slot: int, memory: KVState) -> StateCopies:
        size = self.size(slot)
        state = memory[:size] if size <= memory.size else allocate_state(size)
        return self._copy_out(slot, state, _WHOLE)

    def _copy_out(self, slot: int, state: KVState, flags: int) -> StateCopies:
        """Begin to write the slot's state into ``state``, which has its size."""
        none: list[int] = []
        deferred = self._cell_memory.deferred() if self._defers_copies else nullcontext(none)
        with self.transfers.counted(), deferred as noted:
            written = llama.llama_state_seq_get_data_ext(self.pointer, _address(state), state.size, slot, flags)
        if written != state.size:
            raise BackendError(f"slot {slot}'s KV can't be read out")
        return StateCopies(noted[0] if noted else None, state, self.transfers)

    def begin_load(self, slot: int, state: KVState, length: int) -> StateCopies | StateLoad | None:
        """See ``Backend.kv_begin_load``."""
        if not self._defers_copies or self._is_recurrent:
            return None
        # A rollback to a checkpoint follows at once, before a state would be adapted.
        begin = partial(self._begin_load, slot, length)
        return begin_load(state, self._streams, begin, adapts=not self.needs_checkpoints)

    def _begin_load(self, slot: int, length: int, state: KVState) -> StateCopies | None:
        """Begin to load the state, which has this layout's number of streams. None: the slot is empty."""
        kept = kept_rows(state, length)
        if kept is None:
            return None
        with self.transfers.counted(), self._cell_memory.deferred(kept) as noted:
            size = llama.llama_state_seq_set_data_ext(self.pointer, _address(state), state.size, slot, _WHOLE)
        # Cells behind the length are free from now on, and nothing is copied to them.
        if size != state.size or not (self.needs_checkpoints or self.truncate(slot, length)):
            self.clear_slot(slot)
            return None
        return StateCopies(noted[0] if noted else None, state, self.transfers)

    @property
    def _defers_copies(self) -> bool:
        """Whether rows of cells can be copied after the call that saves or restores a state.

        A window's cells are overwritten by later tokens, of any slot where they are shared. They are copied at once as
        long as their cache is smaller.
        """
        layout = self.layout
        cells = max(self.reserved_cells, layout.cells) if layout.shared else layout.cells
        sharing = self.slots if layout.shared else 1
        window_cells = self.window * sharing + self._max_batch + 2 * CELL_PADDING if self.window else 0
        return loader.status() == "on" and cells > window_cells

    def measure_rollback(self) -> Rollback:
        """How slots can be cut. Slot 0 holds two tokens for it."""
        if not self.needs_checkpoints:
            return Rollback(window=self.window)
        state = self.checkpoint(0)
        windows = cells_bytes(state) if self.window else 0
        self._recurrent_bytes = state.size - HEAD_BYTES - windows
        return Rollback(
            checkpoint_bytes=self._recurrent_bytes + windows * (self.window + 1) // 2,
            snapshots=self._snapshots,
            has_cells=not self._is_recurrent,
        )

    def _read(self, slot: int, flags: int, reused: KVState | None = None) -> KVState:
        size = llama.llama_state_seq_get_size_ext(self.pointer, slot, flags)
        state = self._memory_for(size, reused)
        with self.transfers.counted():
            written = llama.llama_state_seq_get_data_ext(self.pointer, _address(state), state.size, slot, flags)
        if written != state.size:
            raise BackendError(f"slot {slot}'s KV can't be read out")
        return state

    def _memory_for(self, size: int, reused: KVState | None) -> KVState:
        # Memory that is touched for the first time costs more than the copy.
        fits = reused is not None and size <= reused.size <= size + _WASTED_BYTES
        return reused[:size] if reused is not None and fits else allocate_state(size)

    def restore(self, slot: int, state: KVState) -> bool:
        """Put the whole state into the empty slot. False where that fails: the slot stays empty."""
        return self._write(slot, state, _WHOLE)

    def roll_back(self, slot: int, checkpoint: KVState, length: int) -> bool:
        """See ``Backend.kv_rollback``."""
        self.coming.finish(checkpoint)
        # Once the part that can't be cut ends at ``length``, cutting there removes the cells of the other part alone.
        return self._write(slot, checkpoint, _PARTIAL) and self.truncate(slot, length)

    def _write(self, slot: int, state: KVState, flags: int) -> bool:
        # A recurrent part has no number of streams. A checkpoint has cells of windows alone.
        has_cells = not self._is_recurrent and (flags == _WHOLE or self.window > 0)
        adapted = with_streams(state, self._streams, recurrent_bytes=self._recurrent_bytes) if has_cells else state
        if adapted is not None:
            with self.transfers.counted():
                size = llama.llama_state_seq_set_data_ext(self.pointer, _address(adapted), adapted.size, slot, flags)
            if size == adapted.size:
                return True
        self.clear_slot(slot)
        return False

    def truncate(self, slot: int, length: int) -> bool:
        """See ``Backend.kv_truncate``."""
        if not self.needs_checkpoints and llama.llama_memory_seq_pos_max(self._memory, slot) < length:
            return True  # llama.cpp would visit all cells to find nothing.
        # A window must not go on without its cells, and a snapshot may be that of an older pass: llama.cpp checks
        # neither.
        if (not length or length >= self.floor(slot)) and llama.llama_memory_seq_rm(self._memory, slot, length, -1):
            return True
        # Recurrent memories can't drop a part. Dropping everything always works.
        self.clear_slot(slot)
        return False

    def drop(self, slot: int, length: int) -> bool:
        """See ``Backend.kv_drop``."""
        if llama.llama_memory_seq_rm(self._memory, slot, length, -1):
            return True
        self.clear_slot(slot)
        return False

    def floor(self, slot: int) -> int:
        """See ``Backend.kv_floor``."""
        if not (self.window or self.needs_checkpoints):
            return 0
        length = int(llama.llama_memory_seq_pos_max(self._memory, slot)) + 1
        if self.needs_checkpoints:
            return length
        # The next token sees the ``window`` tokens up to itself. Saved states have no older cells, and llama.cpp
        # overwrites older cells of any slot.
        first = int(llama.llama_memory_seq_pos_min(self._memory, slot))
        return min(length, first + self.window - 1) if first > 0 else 0

    def copy(self, source: int, target: int, length: int) -> bool:
        """See ``Backend.kv_copy``."""
        if not self.layout.shared:
            # Between streams, llama_memory_seq_cp copies whole streams, however few tokens they have.
            return self.restore(target, self.save(source)) and self.truncate(target, length)
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        return self.truncate(target, length)

    def clear_slot(self, slot: int) -> None:
        """Empty one slot."""
        llama.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def clear(self) -> None:
        """Empty every slot."""
        if self._memory is not None:
            llama.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free the context; nothing happens when it is freed already."""
        self.coming.clear()
        if self.transfers.has_device:
            loader.free_snapshots()
        if self.pointer is not None:
            self._cell_memory.forget()
            self._pools.detach(self.pointer)
            llama.llama_free(self.pointer)
        self.pointer = None

    def has_content(self, slot: int) -> bool:
        """Whether the slot has tokens."""
        if slot >= (self.layout.partitions or self.slots):
            return False
        return bool(llama.llama_memory_seq_pos_max(self._memory, slot) >= 0)


def _address(state: KVState) -> object:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
