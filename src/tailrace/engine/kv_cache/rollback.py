"""How the end of a slot's content can be removed: a property of the model's memory. Pure data.

A KV cache can be cut at any length. Two kinds of memory can't:

- A recurrent state is that of all tokens so far. It goes back to a *checkpoint*, a copy that was taken at some length.
- A sliding window keeps the cells of its last tokens. A saved state has no others, so a restored slot can be cut by one
  token at most.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rollback:
    """``checkpoint_bytes``: memory of a checkpoint, at most; 0 where slots can be cut without. ``window``: tokens of
    the longest sliding window whose cells are cut; 0 where there is none. ``snapshots``: tokens that a slot can drop
    just after the pass that computed them, without a checkpoint; 0 where there are none or none are needed.
    ``has_cells``: False where a checkpoint is the whole state, because tokens take no cells.
    """

    checkpoint_bytes: int = 0
    window: int = 0
    snapshots: int = 0
    has_cells: bool = True

    @property
    def by_checkpoints(self) -> bool:
        """Whether a slot can go back to its checkpoints and to no other length."""
        return self.checkpoint_bytes > 0

    def state_floor(self, length: int) -> int:
        """The smallest length above 0 to which the saved state of ``length`` tokens can be cut."""
        if self.by_checkpoints:
            return length
        return length - 1 if 0 < self.window < length else 0


#: That of a KV cache without windows.
ANY_LENGTH = Rollback()
