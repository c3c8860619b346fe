"""Checkpoints whose bytes are still on their way from devices. They arrive in pieces, between steps.

Each device keeps a copy until then (``kernels/loading/snapshots.c``), so the slots' content may change meanwhile.
"""

from __future__ import annotations

import numpy as np

from tailrace.engine.backends.base import KVState
from tailrace.engine.backends.llama.state_copies import StateCopies

#: Checkpoints on their way, at most: each takes its size of a device's memory.
_MAX_COUNT = 8


class ComingCheckpoints:
    """See the module. The oldest comes first."""

    def __init__(self) -> None:
        self._copies: list[StateCopies] = []

    def add(self, copies: StateCopies) -> None:
        """Another one. Where there are too many, the oldest arrives at once."""
        if not copies.done:
            self._copies.append(copies)
        while len(self._copies) > _MAX_COUNT:
            self.settle()

    def settle(self) -> bool:
        """See ``Backend.kv_settle``."""
        if not self._copies:
            return False
        self._copies[0].advance()
        if self._copies[0].done:
            del self._copies[0]
        return True

    def finish(self, state: KVState) -> None:
        """Have all of ``state`` now, if it is on its way."""
        for each in [each for each in self._copies if np.may_share_memory(each.state, state)]:
            while not each.done:
                each.advance()
            self._copies.remove(each)

    def forget(self, memory: KVState) -> None:
        """Write no more into ``memory``."""
        self._copies = [each for each in self._copies if not np.may_share_memory(each.state, memory)]

    def clear(self) -> None:
        """Forget all: their context is about to be freed."""
        self._copies.clear()
