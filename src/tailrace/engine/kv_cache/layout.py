"""How the KV cache is cut, and which cut a load asks for. Pure policy: it knows lengths and a limit, no tokens.

*Pool*: all slots share the cells. One long context may take nearly all of them, and sequences of every kind, prompts
and replies, are computed in one pass over the weights. *Streams*: every slot has cells of its own, each stream as large
as the longest has to be, and llama.cpp computes in one pass only what has as many tokens in each.

Which is better depends on the attention. llama.cpp's goes past everybody's cells in a pool and looks at the mask of
each: eight contexts of 1,000 tokens of the starter model, a step takes 50 ms in the pool and 40 in streams. Our own
reads what a token sees and nothing else: 20.4 in the pool and 21.1 in streams. So where it is at work there is a pool
that grows with what it holds. Elsewhere the layout follows the load: streams as long as they fit into the limit, few
and long ones for few and long contexts, the pool when they don't.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

#: llama.cpp rounds a stream's size up to this many cells.
GRAIN = 256
#: Cells of the smallest stream that is made.
_LEAST = 512
#: What a sequence can grow by before longer streams are needed: these tokens, or this part of its length.
_SLACK = 128
_SLACK_PART = 4
#: Streams at the start, at most: more come with the sequences that need them.
_FIRST_STREAMS = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """``streams`` slots of ``cells`` each; 0 streams: one pool of ``cells`` for every slot."""

    streams: int
    cells: int

    @property
    def unified(self) -> bool:
        """Whether the slots share one pool."""
        return self.streams == 0

    @property
    def total(self) -> int:
        """Cells in all."""
        return self.cells * max(1, self.streams)


@dataclass(frozen=True, slots=True)
class LayoutPolicy:
    """``slots``: sequences that may run at once; ``limit``: cells that there may be (a multiple of GRAIN);
    ``context``: tokens that one sequence may have; ``pooled``: in a pool nobody pays for others' cells, so there is
    nothing else, of ``start`` cells at first; ``fixed``: the model allows no other layout than the whole pool.
    """

    slots: int
    limit: int
    context: int
    pooled: bool = False
    fixed: bool = False
    start: int = 4096

    def first(self) -> Layout:
        """What to start with: small, because memory follows the tokens that exist."""
        if self.fixed:
            return self.pool
        if self.pooled:
            return Layout(0, min(self.limit, self.start))
        streams = min(self.slots, _FIRST_STREAMS)
        cells = min(_LEAST, self._longest)
        while streams > 1 and streams * cells > self.limit:
            streams //= 2
        return Layout(streams, cells)

    @property
    def pool(self) -> Layout:
        """All cells for everybody."""
        return Layout(0, self.limit)

    def choose(self, lengths: Seq[int], now: Layout) -> Layout | None:
        """A layout for sequences of these lengths at once, or None where there is none.

        It has room to spare if it can, and never gives up what ``now`` has where it needn't.
        """
        if self.fixed:
            return self.pool if sum(lengths) <= self.limit else None
        if self.pooled:
            needed = sum(lengths)
            roomy = _power_of_two(_rounded(needed + sum(max(_SLACK, length // _SLACK_PART) for length in lengths)))
            return Layout(0, max(now.cells, min(roomy, self.limit))) if needed <= self.limit else None
        count, longest = len(lengths), max(lengths)
        streams = min(self.slots, _power_of_two(count))
        roomy = _rounded(longest + max(_SLACK, longest // _SLACK_PART))
        cells = min(max(_LEAST, roomy), self._longest)
        if cells >= longest:
            for candidate in (
                Layout(max(streams, now.streams), max(cells, 0 if now.unified else now.cells)),
                Layout(max(streams, now.streams), cells),
                Layout(streams, cells),
                Layout(count, cells),
                Layout(count, min(_rounded(longest + _SLACK), self._longest)),
            ):
                if candidate.total <= self.limit:
                    return candidate
        return self.pool if sum(lengths) <= self.limit else None

    @property
    def _longest(self) -> int:
        return min(self.limit, _rounded(self.context))


def _rounded(cells: int) -> int:
    return -(-cells // GRAIN) * GRAIN


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
