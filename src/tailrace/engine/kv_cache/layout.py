"""How the KV cache's cells are divided among slots, and which layout a load needs. Pure policy over lengths and limits.

*Shared*: all slots share the cells. One long context may take nearly all of them. Sequences of every kind, prompts and
replies, are computed in one pass over the weights. llama.cpp calls this a unified KV cache.

*Partitioned*: every slot has cells of its own, and every partition is as large as the longest sequence needs.
llama.cpp computes sequences in one pass only where they have the same number of tokens. llama.cpp calls the partitions
streams.

Which is better depends on the attention. llama.cpp's attention visits every cell of a shared cache, masked or not: with
eight contexts of 1,000 tokens a step takes a quarter longer than partitioned. Tailrace's own attention reads visible
cells only, so sharing costs nothing: there the cache is always shared and grows with its content. Elsewhere the layout
follows the load: partitions while they fit into the limit, shared when they don't.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

#: llama.cpp rounds a stream's size up to this many cells.
GRAIN = 256
#: Cells of the smallest stream that is made.
_LEAST = 512
#: What a sequence can grow by before longer partitions are needed: these tokens, or this part of its length.
_SLACK = 128
_SLACK_PART = 4
#: Streams at the start, at most: more come with the sequences that need them.
_INITIAL_PARTITIONS = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """``partitions`` slots of ``cells`` each; 0 partitions: one pool of ``cells`` for every slot."""

    partitions: int
    cells: int

    @property
    def shared(self) -> bool:
        """Whether the slots share one pool."""
        return self.partitions == 0

    @property
    def total(self) -> int:
        """Cells in all."""
        return self.cells * max(1, self.partitions)


@dataclass(frozen=True, slots=True)
class LayoutPolicy:
    """Which layouts a model and the memory allow.

    ``slots``: sequences that may run at once. ``max_cells``: the limit of all cells, a multiple of GRAIN. ``context``:
    tokens that one sequence may have. ``always_shared``: unseen cells cost no time, so the layout is always shared, of
    ``initial_cells`` at first. ``fixed``: the model allows the full shared layout only.
    """

    slots: int
    max_cells: int
    context: int
    always_shared: bool = False
    fixed: bool = False
    initial_cells: int = 4096

    def initial(self) -> Layout:
        """What to start with: small, because memory follows the tokens that exist."""
        if self.fixed:
            return self.full_shared
        if self.always_shared:
            return Layout(0, min(self.max_cells, self.initial_cells))
        partitions = min(self.slots, _INITIAL_PARTITIONS)
        cells = min(_LEAST, self._longest)
        while partitions > 1 and partitions * cells > self.max_cells:
            partitions //= 2
        return Layout(partitions, cells)

    @property
    def full_shared(self) -> Layout:
        """All cells for everybody."""
        return Layout(0, self.max_cells)

    def choose(self, lengths: Seq[int], now: Layout) -> Layout | None:
        """A layout for sequences of these lengths at once, or None where there is none.

        It has room to spare if it can, and never gives up what ``now`` has where it needn't.
        """
        if self.fixed:
            return self.full_shared if sum(lengths) <= self.max_cells else None
        if self.always_shared:
            needed = sum(lengths)
            roomy = _power_of_two(_rounded(needed + sum(max(_SLACK, length // _SLACK_PART) for length in lengths)))
            return Layout(0, max(now.cells, min(roomy, self.max_cells))) if needed <= self.max_cells else None
        count, longest = len(lengths), max(lengths)
        partitions = min(self.slots, _power_of_two(count))
        roomy = _rounded(longest + max(_SLACK, longest // _SLACK_PART))
        cells = min(max(_LEAST, roomy), self._longest)
        if cells >= longest:
            for candidate in (
                Layout(max(partitions, now.partitions), max(cells, 0 if now.shared else now.cells)),
                Layout(max(partitions, now.partitions), cells),
                Layout(partitions, cells),
                Layout(count, cells),
                Layout(count, min(_rounded(longest + _SLACK), self._longest)),
            ):
                if candidate.total <= self.max_cells:
                    return candidate
        return self.full_shared if sum(lengths) <= self.max_cells else None

    @property
    def _longest(self) -> int:
        return min(self.max_cells, _rounded(self.context))


def _rounded(cells: int) -> int:
    return -(-cells // GRAIN) * GRAIN


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
