"""How the KV cache's cells are divided among slots, and which layout a load needs. Pure policy over lengths and limits.

*Shared*: all slots share the cells. One long context may take nearly all of them. Sequences of every kind, prompts and
replies, are computed in one pass over the weights. llama.cpp calls this a unified KV cache.

*Partitioned*: every slot has cells of its own, and every partition is as large as the longest sequence needs.
llama.cpp computes sequences in one pass only where they have the same number of tokens. llama.cpp calls the partitions
streams.

Which is better depends on the attention. llama.cpp's attention visits every cell of a shared cache, masked or not: with
eight contexts of 1,000 tokens a step takes a quarter longer than partitioned. Tailrace's own attention reads visible
cells only, so sharing costs nothing: there the cache is always shared and grows with its content. It grows in place up
to the cells whose addresses the backend has reserved. Elsewhere the layout follows the load: partitions while they fit
into the limit, shared when they don't.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

#: llama.cpp rounds the cells of a layout, or of each partition, up to a multiple of this.
CELL_PADDING = 256
#: Cells of the smallest partition.
_MIN_PARTITION = 512
#: Tokens that a sequence can grow by before the layout has to grow: at least these, or this part of its length.
_MIN_SLACK = 128
_SLACK_DIVISOR = 4
#: Partitions at the start, at most: more come with the sequences that need them.
_MAX_INITIAL_PARTITIONS = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """``partitions`` slots of ``cells`` each; 0 partitions: ``cells`` that all slots share."""

    partitions: int
    cells: int

    @property
    def shared(self) -> bool:
        """Whether all slots share the cells."""
        return self.partitions == 0

    @property
    def total(self) -> int:
        """Cells in all."""
        return self.cells * max(1, self.partitions)


@dataclass(frozen=True, slots=True)
class LayoutPolicy:
    """Which layouts a model and the memory allow.

    ``slots``: sequences that may run at once. ``max_cells``: the limit of all cells, a multiple of CELL_PADDING.
    ``context``: tokens that one sequence may have. ``always_shared``: cells of other sequences cost no time, so the
    layout is always shared, of ``initial_cells`` at first. ``fixed``: only the full shared layout is allowed.
    ``reserved_cells``: a shared layout grows up to these cells in place, without moving any state.
    """

    slots: int
    max_cells: int
    context: int
    always_shared: bool = False
    fixed: bool = False
    initial_cells: int = 4096
    reserved_cells: int = 0

    def initial(self) -> Layout:
        """The first layout: small, because memory follows the tokens that exist."""
        if self.fixed:
            return self.full_shared
        if self.always_shared:
            return Layout(0, min(self.max_cells, self.initial_cells))
        partitions = min(self.slots, _MAX_INITIAL_PARTITIONS)
        cells = min(_MIN_PARTITION, self._max_partition)
        while partitions > 1 and partitions * cells > self.max_cells:
            partitions //= 2
        return Layout(partitions, cells)

    @property
    def full_shared(self) -> Layout:
        """All cells there may be, shared."""
        return Layout(0, self.max_cells)

    def grows_in_place(self, now: Layout, layout: Layout) -> bool:
        """Whether the change from ``now`` to ``layout`` moves no state."""
        return now.shared and layout.shared and now.cells <= layout.cells <= self.reserved_cells

    def choose(self, lengths: Seq[int], now: Layout) -> Layout | None:
        """A layout for sequences of these lengths at once, or None where there is none.

        Where the limit allows, it has cells for them to grow and is at least as large as ``now``.
        """
        needed = sum(lengths)
        if self.fixed:
            return self.full_shared if needed <= self.max_cells else None
        if self.always_shared:
            roomy = _power_of_two(_padded(needed + sum(map(_slack, lengths))))
            return Layout(0, max(now.cells, min(roomy, self.max_cells))) if needed <= self.max_cells else None
        count, longest = len(lengths), max(lengths)
        partitions = min(self.slots, _power_of_two(count))
        cells = min(max(_MIN_PARTITION, _padded(longest + _slack(longest))), self._max_partition)
        if cells >= longest:
            for candidate in (
                Layout(max(partitions, now.partitions), max(cells, 0 if now.shared else now.cells)),
                Layout(max(partitions, now.partitions), cells),
                Layout(partitions, cells),
                Layout(count, cells),
                Layout(count, min(_padded(longest + _MIN_SLACK), self._max_partition)),
            ):
                if candidate.total <= self.max_cells:
                    return candidate
        return self.full_shared if needed <= self.max_cells else None

    def choose_smallest(self, length: int) -> Layout | None:
        """The smallest layout in which one sequence of this length can run; None where there is none."""
        if self.fixed or length > self.max_cells:
            return None
        cells = min(_padded(length + _MIN_SLACK), self.max_cells if self.always_shared else self._max_partition)
        return Layout(0 if self.always_shared else 1, cells) if length <= cells else None

    def after_failure(self, failed: Layout, previous: Layout) -> LayoutPolicy:
        """The policy once there was no memory for the layout ``failed``: at most as many cells as ``previous`` has,
        which is there, and fewer than the failed one.
        """
        cells = min(previous.total, failed.total - 1)
        return replace(self, max_cells=max(CELL_PADDING, cells // CELL_PADDING * CELL_PADDING))

    @property
    def _max_partition(self) -> int:
        return min(self.max_cells, _padded(self.context))


def _slack(length: int) -> int:
    return max(_MIN_SLACK, length // _SLACK_DIVISOR)


def _padded(cells: int) -> int:
    return -(-cells // CELL_PADDING) * CELL_PADDING


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
