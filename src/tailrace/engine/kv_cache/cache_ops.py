"""The changes that a plan makes to the KV cache: the accounting makes them first, then the executor does in the model.

They are applied in order. Each refers to slots as the changes before it have left them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tailrace.engine.kv_cache.checkpoints import Checkpoint
from tailrace.engine.kv_cache.layout import Layout
from tailrace.engine.kv_cache.prefix_store import OffloadResult

#: A copied state is outdated when its sequence has gone on by more tokens than this, and than this part of the state.
_OUTDATED_TOKENS = 128
_OUTDATED_PART = 0.125


@dataclass(frozen=True, slots=True)
class Placement:
    """The slot of a new sequence, and the prefix that it finds: the first ``prefix_len`` tokens.

    The prefix is in the slot already, or is copied from ``source_slot``, or is loaded from the offloaded state
    ``offload_key``. Then the slot goes back to ``checkpoint``, if there is one. Where ``restored`` has the tokens of
    the sequence, the checkpoint is put into the empty slot. Where ``new_checkpoint`` has them, a checkpoint of the
    prefix is taken before the sequence continues it.
    """

    slot: int
    prefix_len: int
    source_slot: int | None = None
    offload_key: int | None = None
    checkpoint: Checkpoint | None = None
    restored: list[int] | None = None
    new_checkpoint: list[int] | None = None


@dataclass(slots=True, eq=False)
class Leaving:
    """A slot that is to be evicted. Before, the state of its first ``tokens`` is copied in pieces. The sequence in it
    may go on meanwhile, and is paused afterwards.

    ``begun``: ``tokens`` is final. ``pieces``: those that are copied. ``copied``: all of it is, or can't be.
    ``wanted``: False once the slot was used again, and the copy is useless.
    """

    slot: int
    tokens: int
    begun: bool = False
    pieces: float = 0.0
    copied: bool = False
    wanted: bool = True

    def is_outdated(self, length: int) -> bool:
        """Whether too much would be computed again of a slot that has ``length`` tokens by now."""
        return self.begun and length - self.tokens > max(_OUTDATED_TOKENS, _OUTDATED_PART * self.tokens)


@dataclass(frozen=True, slots=True)
class Evict:
    """Offload the state of ``slot`` to host memory as ``offload`` says, then empty it, unless it ``stays``: a placement
    of its first tokens follows. ``leaving``: its state was copied, or begun to be, in pieces.
    """

    slot: int
    offload: OffloadResult
    stays: bool = False
    leaving: Leaving | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """Exchange the content of two slots."""

    one: int
    other: int


@dataclass(frozen=True, slots=True)
class Relayout:
    """Divide the cells anew, or add cells in place. The content of slot ``slot_map[i][0]`` goes to slot
    ``slot_map[i][1]``; all other slots are empty then.

    ``previous`` and ``contents`` (tokens by old slot) are what to go back to when there is no memory for ``layout``.
    ``last_resort``: the layout is larger than the last one that failed, and is for one sequence, which can't run
    otherwise. ``loading``: old slots that are being loaded in pieces; all loads end before content moves. None: cells
    are added in place, and no content moves.
    """

    layout: Layout
    slot_map: tuple[tuple[int, int], ...]
    previous: Layout
    contents: dict[int, list[int]]
    last_resort: bool = False
    loading: frozenset[int] | None = None


CacheOp = Placement | Evict | Swap | Relayout
