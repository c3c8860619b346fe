"""A backend for whose larger layouts there is no memory."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from context_backend import ContextBackend
from tailrace.engine.backends.base import KVLayoutError
from tailrace.engine.kv_cache.layout import Layout


class ScarceBackend(ContextBackend):
    """Has memory for ``available`` cells, however many its policy allows."""

    def __init__(
        self,
        available: int,
        *,
        ctx: int = 2048,
        parallel: int = 3,
        always_shared: bool = False,
        in_place: bool = False,
        loses: bool = False,
    ) -> None:
        super().__init__(
            ctx=ctx, parallel=parallel, kv_tokens=0, batch=64, always_shared=always_shared, in_place=in_place
        )
        self.available = available
        self.failures = 0
        self._loses = loses

    def kv_relayout(self, layout: Layout, slot_map: Seq[tuple[int, int]]) -> list[int]:
        """See ``Backend``."""
        if layout.total <= self.available:
            return super().kv_relayout(layout, slot_map)
        self.failures += 1
        held = {old for old, _ in slot_map if self._tokens[old]}
        lost = set(sorted(held)[:1]) if self._loses else set()
        self._tokens = [tokens if slot in held - lost else [] for slot, tokens in enumerate(self._tokens)]
        self._scripts.clear()
        raise KVLayoutError("no memory", frozenset(lost))
