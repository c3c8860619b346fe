"""KV cache accounting: which slot holds which tokens, how many cells are free, and where a prefix is found.

Pure accounting: it doesn't decide which sequence runs (the scheduler does) and doesn't touch a model. The changes that
the model's cache must follow are returned as cache ops (``cache_ops``), and the executor applies them.

The tokens of a finished sequence stay in its slot until the slot or its cells are needed. A sequence that starts with
the same tokens reuses them: the next turn of a conversation, a shared system prompt, another choice of the same prompt.
A slot that is evicted offloads its content to the prefix store in host memory.

How much of it is reused depends on how slots can be cut (``rollback``): a recurrent memory goes back to the longest
checkpoint that is a prefix of the prompt (``checkpoints``), and a sliding window must still have its cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tailrace.engine.kv_cache.cache_ops import Evict, Leaving, Placement, Relayout, Swap
from tailrace.engine.kv_cache.checkpoints import Checkpoint, Checkpoints, usable_prefix
from tailrace.engine.kv_cache.eviction import LruIndex
from tailrace.engine.kv_cache.layout import Layout, LayoutPolicy
from tailrace.engine.kv_cache.prefix_store import PrefixStore
from tailrace.engine.kv_cache.rollback import ANY_LENGTH, Rollback
from tailrace.engine.kv_cache.shared_cells import cells_of
from tailrace.engine.kv_cache.slot import Slot

#: Tokens behind the last checkpoint from which one is taken where a sequence goes on: no step has to end for it.
_MIN_CONTINUED = 16
#: Pieces of a state that are copied at once for a waiting caller, until it is known how long a piece takes.
_FIRST_PIECES_AT_ONCE = 4


class KVCache:
    """The slots of one model's KV cache, and the prefix store."""

    def __init__(
        self,
        policy: LayoutPolicy,
        layout: Layout,
        host_tokens: int,
        rollback: Rollback = ANY_LENGTH,
        checkpoints: Checkpoints | None = None,
        *,
        state_tokens: int = 0,
        piece_tokens: int = 0,
    ) -> None:
        """``layout``: of the model's cache now; ``host_tokens``: tokens of prefix states that host memory may hold.

        ``rollback``: how slots are cut; ``checkpoints``: those of a model that needs them, None where none are taken.
        ``state_tokens``: what a state takes beside its cells, in tokens. ``piece_tokens``: see ``Backend``.
        """
        self.layout = layout
        self.slots = [Slot(index) for index in range(policy.slots)]
        self.prefix_store = PrefixStore(host_tokens, state_tokens)
        self.rollback = rollback
        self.checkpoints = checkpoints
        self._full_policy = policy
        self._policy = policy  #: the same, or with fewer cells after a layout for which there was no memory
        #: Tokens of a state that move at once: longer ones move in pieces. 0: states move whole.
        self.piece_tokens = piece_tokens
        #: Pieces of a state that are copied at once where a caller waits for it. The executor measures their time.
        self.pieces_at_once = _FIRST_PIECES_AT_ONCE
        self._state_tokens = state_tokens
        self.leaving: Leaving | None = None  #: the slot that is being copied, so that it can be evicted
        self.loading: set[int] = set()  #: occupied slots whose prefix isn't loaded yet; the executor fills and ends it
        self._lru: LruIndex[int] = LruIndex()  #: slots that hold tokens and aren't occupied
        self._cells = cells_of(layout)

    @property
    def used_cells(self) -> int:
        """Cells that hold a token, of running sequences and of cached prefixes."""
        if self.layout.shared:
            return self.layout.cells - self._cells.free
        return sum(len(slot.tokens) for slot in self.slots)

    @property
    def growth_tokens(self) -> int:
        """Tokens for which memory may still be allocated: cells of larger layouts, and prefix states. Checkpoints come
        on top.
        """
        return max(0, self._policy.max_cells - self.layout.total) + self.prefix_store.free_tokens

    @property
    def free_tokens(self) -> int:
        """Tokens that fit into cells and host memory before a prefix is dropped."""
        return max(0, self._policy.max_cells - self.used_cells) + self.prefix_store.free_tokens

    @property
    def cached_slots(self) -> list[Slot]:
        """Slots that hold a prefix and no running sequence, least recently used first."""
        return [self.slots[index] for index in self._lru]

    @property
    def always_shared(self) -> bool:
        """Whether the layout is always shared: attention takes no time for cells of other sequences."""
        return self._policy.always_shared

    # Free cells

    def fits(self, additions: Iterable[tuple[int, int]]) -> bool:
        """Whether tokens can be appended: pairs of slot and number of tokens, all together."""
        if self.layout.shared:
            return sum(number for _, number in additions) <= self._cells.free
        cells = self.layout.cells
        return all(len(self.slots[index].tokens) + number <= cells for index, number in additions)

    def free_cells(self, index: int) -> int:
        """Tokens that can be appended to the slot; in a shared layout the cells are free for all slots."""
        return self._cells.free if self.layout.shared else self.layout.cells - len(self.slots[index].tokens)

    @property
    def evictable_cells(self) -> int:
        """Free cells of a shared layout once all cached slots are evicted."""
        return self.layout.cells - len({cell for slot in self.slots if slot.occupied for cell in slot.cells})

    # Prefixes

    def pick_slot(self) -> Slot | None:
        """The slot for a new sequence; None when all are occupied.

        An empty one if there is any, else the least recently used one. In a partitioned layout a slot beside the
        occupied ones comes first: llama.cpp computes sequences in adjacent slots in one pass over the weights.
        """
        if self.layout.shared:
            empty = next((slot for slot in self.slots if not (slot.occupied or slot.tokens)), None)
            if empty is None and self.leaving is not None and self.leaving.copied:
                copied = self.slots[self.leaving.slot]
                empty = None if copied.occupied else copied
            return empty or next((self.slots[index] for index in self._lru), None)
        slots = self.slots[: self.layout.partitions]
        age = {index: place for place, index in enumerate(self._lru)}
        occupied = [slot.index for slot in slots if slot.occupied]
        low, high = (occupied[0], occupied[-1]) if occupied else (0, len(slots))
        return min(
            (slot for slot in slots if not slot.occupied),
            key=lambda slot: (max(low - slot.index, slot.index - high, 0), age.get(slot.index, -1)),
            default=None,
        )

    def match_prefix(self, tokens: list[int], *, reuse: bool = True) -> Placement | None:
        """The placement with the longest cached prefix of ``tokens``, short of the last one: its logits are needed.

        Without ``reuse``: one that finds nothing. None when all slots are occupied.
        """
        target = self.pick_slot()
        if target is None:
            return None
        best = Placement(target.index, 0)
        if not reuse:
            return best
        longest = len(tokens) - 1
        checkpoints = self._prefix_checkpoints(tokens)
        for key, stored in self.prefix_store.items():
            floor = self.rollback.state_floor(len(stored))
            length, checkpoint = usable_prefix(stored, tokens, longest, floor, checkpoints)
            if length > best.prefix_len:
                best = Placement(target.index, length, offload_key=key, checkpoint=checkpoint)
        for slot in self._loaded_slots():
            length, checkpoint = usable_prefix(slot.tokens, tokens, longest, self._floor(slot), checkpoints)
            # At equal length a slot's prefix costs less than an offloaded one.
            if length > best.prefix_len or (length == best.prefix_len > 0 and best.offload_key is not None):
                copied = Placement(target.index, length, source_slot=slot.index, checkpoint=checkpoint)
                best = copied if slot.occupied else Placement(slot.index, length, checkpoint=checkpoint)
        if not self.rollback.has_cells:
            alone = next((each for each in reversed(checkpoints) if each.length <= longest), None)
            if alone is not None and alone.length > best.prefix_len:
                return Placement(target.index, alone.length, checkpoint=alone, restored=tokens)
        if self.checkpoints is not None and best.checkpoint is None:
            taken = max((each.length for each in checkpoints if each.length <= best.prefix_len), default=0)
            if best.prefix_len - taken >= _MIN_CONTINUED:
                return replace(best, new_checkpoint=tokens)
        return best

    def cached_prefix_len(self, tokens: list[int]) -> int:
        """Length of the longest prefix of ``tokens`` that a slot or host memory has and a sequence can start with."""
        checkpoints = self._prefix_checkpoints(tokens)
        held = [(stored, self.rollback.state_floor(len(stored))) for _, stored in self.prefix_store.items()]
        held += [(slot.tokens, self._floor(slot)) for slot in self._loaded_slots()]
        longest = max(usable_prefix(each, tokens, len(tokens), floor, checkpoints)[0] for each, floor in held)
        return longest if self.rollback.has_cells else max(longest, *(each.length for each in checkpoints), 0)

    def plan_checkpoints(self, tokens: list[int], start: int) -> list[int]:
        """The lengths of ``tokens``, rising, at which checkpoints are to be taken once ``start`` tokens are there."""
        return [] if self.checkpoints is None else self.checkpoints.positions(tokens, start)

    def _floor(self, slot: Slot) -> int:
        return len(slot.tokens) if self.rollback.by_checkpoints else slot.floor

    def _prefix_checkpoints(self, tokens: list[int]) -> list[Checkpoint]:
        return [] if self.checkpoints is None else self.checkpoints.prefixes(tokens)

    def _loaded_slots(self) -> list[Slot]:
        """The slots whose tokens are in the model."""
        return [slot for slot in self.slots if slot.index not in self.loading] if self.loading else self.slots

    def reuses_own_slot(self, placement: Placement) -> bool:
        """Whether the prefix is in the placement's slot already."""
        elsewhere = (placement.source_slot, placement.offload_key, placement.restored)
        return placement.prefix_len > 0 and elsewhere == (None, None, None)

    def required_cells(self, placement: Placement, tokens: int) -> int:
        """Tokens that the slot must be able to hold: the sequence's, and the whole state that is loaded at first."""
        key = placement.offload_key
        return max(tokens, len(self.prefix_store[key]) if key is not None else 0)

    # Changes

    def occupy(self, placement: Placement) -> None:
        """A sequence takes the slot. The slot must be empty unless its own tokens are the prefix."""
        slot = self.slots[placement.slot]
        slot.occupied = True
        if self.leaving is not None and self.leaving.slot == slot.index:
            self._give_up_leaving()
        if slot.index in self._lru:
            self._lru.remove(slot.index)
        if placement.checkpoint is not None and self.checkpoints is not None:
            self.checkpoints.touch(placement.checkpoint)
        if placement.source_slot is not None:
            source = self.slots[placement.source_slot]
            slot.renew()
            slot.tokens = source.tokens[: placement.prefix_len]
            slot.cells = source.cells[: placement.prefix_len]
            self._cells.share(slot.cells)
        elif placement.offload_key is not None:
            self.prefix_store.touch(placement.offload_key)
            self.append(slot.index, self.prefix_store[placement.offload_key][: placement.prefix_len])
        elif placement.restored is not None:
            self.append(slot.index, placement.restored[: placement.prefix_len])
        else:
            self.truncate(slot.index, placement.prefix_len)

    def append(self, index: int, tokens: list[int]) -> None:
        """Account for ``tokens`` computed into the slot. The caller has made sure that they fit."""
        slot = self.slots[index]
        slot.tokens += tokens
        if self.layout.shared:
            slot.cells += self._cells.take(len(tokens))

    def release(self, index: int) -> None:
        """The slot's sequence has ended; its tokens stay for reuse, as the most recently used prefix."""
        slot = self.slots[index]
        slot.occupied = False
        leaving = self.leaving
        if leaving is not None and leaving.slot == index and leaving.is_outdated(len(slot.tokens)):
            self._give_up_leaving()
        if index in self.loading:
            self.loading.discard(index)
            self.truncate(index, 0)
        if slot.tokens:
            self._lru.add(index, len(slot.tokens))

    def truncate(self, index: int, length: int) -> None:
        """Remove the slot's tokens from ``length`` on."""
        slot = self.slots[index]
        if length < len(slot.tokens):
            slot.renew()
        if self.leaving is not None and self.leaving.slot == index and length < self.leaving.tokens:
            self._give_up_leaving()
        self._cells.give_back(slot.cells[length:])
        del slot.cells[length:], slot.tokens[length:]

    def evict(self, index: int, pinned_key: int | None = None) -> Evict:
        """Empty a cached slot; its tokens are offloaded to host memory if they fit and no stored state covers them.

        The offloaded state ``pinned_key`` is about to be loaded and stays.
        """
        self._lru.remove(index)
        leaving = self._take_leaving(index)
        tokens = self.slots[index].tokens[: None if leaving is None else leaving.tokens]
        self.truncate(index, 0)
        return Evict(index, self.prefix_store.offload(tokens, pinned_key), leaving=leaving)

    def can_leave(self, index: int, *, awaited: bool = False) -> bool:
        """Whether the slot can be evicted without a long copy. If not, it is copied in pieces from now on, or after the
        one that is being copied. A running sequence in it goes on. ``awaited``: a caller without its share waits.
        """
        leaving, tokens = self.leaving, self.slots[index].tokens
        pieces, at_once = self.pieces(index), self.pieces_at_once if awaited else 0
        if pieces <= at_once:
            return True
        if leaving is not None and leaving.slot == index and not leaving.is_outdated(len(tokens)):
            return leaving.copied or (at_once > 0 and pieces - leaving.pieces <= at_once)
        if not self.prefix_store.takes(tokens):
            return True
        if leaving is None or leaving.copied or leaving.slot == index:
            self._give_up_leaving()
            self.leaving = Leaving(index, len(tokens))
        return False

    def pieces(self, index: int) -> int:
        """Full pieces in which the slot's state moves; 0: it is short, or moves whole."""
        tokens = len(self.slots[index].tokens)
        return (tokens + self._state_tokens) // self.piece_tokens if tokens and self.piece_tokens else 0

    def _give_up_leaving(self) -> None:
        if self.leaving is not None:
            self.leaving.wanted = False
            self.leaving = None

    def _take_leaving(self, index: int) -> Leaving | None:
        leaving = self.leaving
        if leaving is None or leaving.slot != index:
            return None
        if not leaving.begun:
            self._give_up_leaving()
            return None
        self.leaving = None
        return leaving

    def offload(self, index: int) -> Evict:
        """Copy a cached slot's tokens to host memory, as ``evict`` does; the slot keeps them."""
        leaving = self._take_leaving(index)
        offload = self.prefix_store.offload(self.slots[index].tokens[: None if leaving is None else leaving.tokens])
        return Evict(index, offload, stays=True, leaving=leaving)

    def swap(self, one: int, other: int) -> Swap:
        """Exchange the content of two slots."""
        a, b = self.slots[one], self.slots[other]
        if self.leaving is not None and self.leaving.slot in (one, other):
            self._give_up_leaving()
        a.renew()
        b.renew()
        a.tokens, b.tokens = b.tokens, a.tokens
        a.cells, b.cells = b.cells, a.cells
        a.occupied, b.occupied = b.occupied, a.occupied
        # The states are copied out and back.
        a.floor, b.floor = (self.rollback.state_floor(len(slot.tokens)) for slot in (a, b))
        if one in self._lru or other in self._lru:
            self._lru.rename({one: other, other: one})
        return Swap(one, other)

    # Layouts

    def choose_layout(self, lengths: list[int]) -> Layout | None:
        """A layout in which sequences of these lengths, and no others, can run; None where there is none."""
        return self._policy.choose(lengths, self.layout)

    def last_resort_layout(self, length: int) -> Layout | None:
        """A layout for one sequence of this length, larger than the last one for which there was no memory.

        None where no layout has failed: ``choose_layout`` knows all of them then.
        """
        return None if self._policy is self._full_policy else self._full_policy.choose_smallest(length)

    def grows_in_place(self, layout: Layout) -> bool:
        """Whether ``layout`` only adds cells: each slot keeps its content, and cached slots may stay."""
        return self._policy.grows_in_place(self.layout, layout)

    def relayout(self, layout: Layout) -> Relayout:
        """Divide the cells anew: the content of occupied slots goes to the first slots, in order. No slot may be
        cached, unless the layout ``grows_in_place``.
        """
        in_place = self.grows_in_place(layout)
        occupied = [slot for slot in self.slots if slot.occupied]
        held = [*self.cached_slots, *occupied] if in_place else occupied
        slot_map = tuple((slot.index, slot.index if in_place else index) for index, slot in enumerate(held))
        # In place the slots go on with their own lists.
        contents = {slot.index: slot.tokens[:] if in_place else slot.tokens for slot in held}
        last_resort = layout.total > self._policy.max_cells
        if last_resort:
            self._policy = replace(self._policy, max_cells=layout.total)
        loading = None if in_place else frozenset(self.loading)
        relayout = Relayout(layout, slot_map, self.layout, contents, last_resort, loading)
        if in_place:
            self._cells.grow(layout.cells)
            self.layout = layout
            return relayout
        self.loading.clear()
        self._reset_slots(layout)
        for index, slot in enumerate(held):
            self.slots[index].occupied = True
            self.slots[index].floor = self.rollback.state_floor(len(slot.tokens))
            self.append(index, slot.tokens)
        return relayout

    def undo_relayout(self, relayout: Relayout, lost: set[int]) -> set[int]:
        """There was no memory for the new layout: back to the previous one, with no slot occupied.

        ``lost``: slots (of the previous layout) whose content is gone. Slots whose tokens no longer fit, because a
        shared prefix is stored twice now, are returned and have to be emptied in the model, too. From now on layouts
        have at most as many cells as the previous one, and fewer than the one that failed.
        """
        self._reset_slots(relayout.previous)
        self._policy = self._policy.after_failure(relayout.layout, relayout.previous)
        dropped: set[int] = set()
        for index, tokens in relayout.contents.items():
            if index in lost or not tokens:
                continue
            if self.fits([(index, len(tokens))]):
                self.append(index, tokens)
                self.release(index)
            else:
                dropped.add(index)
        return dropped

    def lift_limit(self) -> None:
        """Allow all layouts again: the memory may be there now."""
        self._policy = self._full_policy

    def _reset_slots(self, layout: Layout) -> None:
        self._give_up_leaving()
        self.layout = layout
        self.slots = [Slot(index) for index in range(len(self.slots))]
        self._lru = LruIndex()
        self._cells = cells_of(layout)
