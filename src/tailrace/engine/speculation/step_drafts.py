"""The drafts of one step: the limits that cache and backend set for them, and the preparation of their removal."""

from __future__ import annotations

from tailrace.engine.backends.base import Backend
from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.draft_rollback import DraftRollback
from tailrace.engine.speculation.speculator import Speculator


class StepDrafts:
    """Has the speculator draft for the coming step."""

    def __init__(self, speculator: Speculator, backend: Backend, cache: KVCache, rollback: DraftRollback) -> None:
        self._speculator = speculator
        self._backend = backend
        self._cache = cache
        self._rollback = rollback

    def propose(self, running: list[Sequence], *, has_waiting: bool) -> None:
        """Set the drafts that the coming step checks. ``has_waiting``: other sequences wait to start."""
        cache, shared = self._cache, self._cache.layout.shared
        max_batch = self._backend.max_batch
        total = (min(max_batch, cache.free_cells(0)) if shared else max_batch) - len(running)
        self._speculator.propose(
            running,
            self._max_draft,
            total,
            has_waiting=has_waiting,
            # llama.cpp splits a batch of a recurrent memory so that each part has equally many tokens of each sequence.
            equal_split=not shared or self._backend.rollback.by_checkpoints,
            rollback=self._rollback,
        )
        self._rollback.begin(running)

    def _max_draft(self, sequence: Sequence) -> int:
        """Tokens that may be added behind the sequence's last one."""
        return min(self._cache.free_cells(sequence.slot) - 1, self._rollback.max_draft)
