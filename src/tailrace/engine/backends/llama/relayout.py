"""Changes the layout of a context's KV cache, with the content of its slots."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from tailrace.engine.backends.base import BackendError, KVLayoutError
from tailrace.engine.backends.llama.context import LlamaContext
from tailrace.engine.kv_cache.layout import Layout
from tailrace.errors import ModelError
from tailrace.machine.free_memory import MemoryGauge


class Relayout:
    """See ``Backend.kv_relayout``. 25 ms for each 1,000 tokens of the starter model that move."""

    def __init__(self, context: LlamaContext) -> None:
        self._context = context
        self._gauge = MemoryGauge()

    def __call__(self, layout: Layout, slot_map: Seq[tuple[int, int]]) -> list[int]:
        """The slots whose content couldn't be put back. Raises KVLayoutError, and BackendError without a context."""
        context, previous = self._context, self._context.layout
        filled = [slot for slot in range(previous.partitions or context.slots) if context.has_content(slot)]
        if self._grows_in_place(layout, slot_map, filled):
            self._check_memory(layout, content=0)
            context.layout = layout
            return []
        self._check_memory(layout, content=sum(map(context.size, filled)))
        try:
            states = {(old, new): context.save(old) for old, new in slot_map if old in filled}
        except MemoryError as error:
            raise KVLayoutError("there is no memory to move the KV cache's content") from error
        lost = set(filled) - {old for old, _ in states}
        try:
            context.replace(layout)
        except ModelError as error:
            try:
                context.replace(previous)
            except ModelError:
                raise BackendError(f"neither the new KV layout nor the previous one can be made: {error}") from error
            lost.update(old for (old, _), state in states.items() if not context.restore(old, state))
            raise KVLayoutError(str(error), frozenset(lost)) from error
        return [new for (_, new), state in states.items() if not context.restore(new, state)]

    def _grows_in_place(self, layout: Layout, slot_map: Seq[tuple[int, int]], filled: Seq[int]) -> bool:
        """Whether the cells have addresses already, and no slot's content moves or goes."""
        context, previous = self._context, self._context.layout
        if not (layout.shared and previous.shared):
            return False
        if not previous.cells <= layout.cells <= context.reserved_cells:
            return False
        stay = {old for old, new in slot_map if old == new}
        return len(stay) == len(slot_map) and stay.issuperset(filled)

    def _check_memory(self, layout: Layout, *, content: int) -> None:
        """Raise KVLayoutError where there is no memory for the layout. Nothing has changed then.

        The old cache is freed before the new one is made, but ``content``, its bytes in use, is copied first.
        """
        growth = (layout.total - self._context.layout.total) * self._context.bytes_per_cell
        if growth > 0 and not self._gauge.allows(growth + content):
            raise KVLayoutError(
                f"a KV cache of {layout.total} tokens takes {(growth + content) / 1e6:.0f} MB more, which isn't free"
            )
