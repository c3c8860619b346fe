"""Removes rejected draft tokens from the model's memory, each kind of memory in its own way.

A KV cache is cut. A recurrent state goes back to a snapshot of the last tokens, where the backend has such. Else a
checkpoint is taken before the step and put back after it: the accepted tokens are then computed again, together with
the next token.
"""

from __future__ import annotations

import time

from tailrace.engine.backends.base import Backend, KVState
from tailrace.engine.sequence import Sequence

#: The weight of the newest observation of a checkpoint's seconds.
_NEW_WEIGHT = 0.2


class DraftRollback:
    """See the module. ``begin`` and ``drop`` are called before and after each step with drafts."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        rollback = backend.rollback
        self._snapshots = rollback.snapshots if rollback.by_checkpoints else 0
        #: Whether accepted tokens are computed again after a rejected one.
        self.recomputes = rollback.by_checkpoints and not self._snapshots
        #: Draft tokens of a sequence in one step, at most.
        self.max_draft = self._snapshots or backend.max_batch
        self._checkpoints: dict[int, KVState] = {}  #: by the sequence's id, of the present step
        self._unused: list[KVState] = []  #: checkpoints of earlier steps, whose memory is used again
        self._checkpoint_seconds = 0.0

    def seconds(self, n_sequences: int) -> float:
        """The expected seconds that drafts of so many sequences cost besides their passes."""
        return n_sequences * self._checkpoint_seconds

    def begin(self, sequences: list[Sequence]) -> None:
        """These sequences run in the coming step. Those without memory for a checkpoint lose their drafts."""
        if not self.recomputes:
            return
        self._unused += self._checkpoints.values()
        self._checkpoints.clear()
        for sequence in sequences:
            if not sequence.draft:
                continue
            begun = time.perf_counter()
            try:
                self._checkpoints[sequence.id] = self._backend.kv_checkpoint(
                    sequence.slot, self._unused.pop() if self._unused else None
                )
            except MemoryError:
                sequence.draft = []
            seconds = time.perf_counter() - begun
            self._checkpoint_seconds += _NEW_WEIGHT * (seconds - self._checkpoint_seconds)

    def drop(self, sequence: Sequence, count: int, end: int) -> int:
        """A step has computed ``count`` tokens of the sequence behind ``computed``; those from ``end`` on are rejected.

        Returns the tokens that its slot holds now: ``end``; ``computed`` where the accepted ones have to be computed
        again; or 0, where the model's memory could not be rolled back. So it is for a sequence that has failed or has
        ended without a new token: then more than its draft is rejected.
        """
        slot, start = sequence.slot, sequence.computed
        if start + count - end <= len(sequence.draft):
            if self._snapshots:
                return end if self._backend.kv_drop(slot, end) else 0
            if self.recomputes:
                return start if self._backend.kv_rollback(slot, self._checkpoints[sequence.id], start) else 0
        elif self._backend.rollback.by_checkpoints:
            end = 0
        return end if self._backend.kv_truncate(slot, end) else 0
