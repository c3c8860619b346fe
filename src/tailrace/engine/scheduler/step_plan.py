"""A step's plan: what the scheduler decides, and the loop carries out."""

from __future__ import annotations

from dataclasses import dataclass, field

from tailrace.engine.kv_cache.cache_ops import CacheOp, Relayout
from tailrace.engine.sequence import Sequence


@dataclass(slots=True)
class Plan:
    """One step: first apply ``cache_ops`` to the model's cache, in order, then compute ``scheduled``."""

    cache_ops: list[CacheOp] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)  #: sequences that the plan starts or resumes
    #: Each sequence with its tokens of this step: first those that decode, then prompts, each by rising slot.
    scheduled: list[tuple[Sequence, int]] = field(default_factory=list)
    #: The sequence for which a last-resort relayout is.
    last_resorts: list[tuple[Relayout, Sequence]] = field(default_factory=list)
