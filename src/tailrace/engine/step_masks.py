"""The masks of a step's sequences: begun before the model's pass, awaited behind it. It has which sequences sit out.

``structured/mask_threads`` computes them. This module knows no grammar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tailrace.engine.scheduler.scheduler import Scheduler
from tailrace.engine.sequence import Sequence
from tailrace.engine.step import StepBatch
from tailrace.engine.structured.mask_threads import MaskReady, MaskThreads
from tailrace.protocol import EngineCounters

#: How long a step waits for masks after the model has computed the logits: a part of the time that these took, within
#: these bounds in seconds. A reply whose mask is later sits out the next steps, and the others go on.
_WAIT_PART = 0.5
_MIN_WAIT, _MAX_WAIT = 0.003, 0.05


class StepMasks:
    """The masks of one loop's steps."""

    def __init__(
        self,
        sequences: Mapping[int, Sequence],
        scheduler: Scheduler,
        counters: EngineCounters,
        *,
        cpus: frozenset[int],
        announce: Callable[[MaskReady], None],
        can_recompute: bool,
    ) -> None:
        """``sequences``: the loop's, by id. ``cpus`` and ``announce``: see ``MaskThreads``. ``can_recompute``: whether
        the model can compute a sequence's last token again; else a step waits for all masks that it has begun.
        """
        self._sequences = sequences
        self._scheduler = scheduler
        self._counters = counters  #: late_masks
        self._can_recompute = can_recompute
        self._threads = MaskThreads(cpus, announce)

    def start(self, batch: StepBatch) -> None:
        """Begin the masks of the batch's constraints: they are computed beside the logits."""
        self._threads.start(
            (sequence.id, sequence.constraint)
            for sequence in batch.constrained
            if sequence.constraint is not None and not sequence.constraint.ready
        )

    def wait(self, decode_seconds: float) -> None:
        """Wait for the masks after a pass of ``decode_seconds``. Sequences whose masks are late get no token in this
        step.
        """
        seconds = min(max(_MIN_WAIT, _WAIT_PART * decode_seconds), _MAX_WAIT)
        for identity in self._threads.wait(seconds if self._can_recompute else None):
            self._sit_out(self._sequences[identity])

    def start_slow(self, batch: StepBatch) -> None:
        """Sequences with slow masks sit out until the next one is computed. Call it when finished ones have gone."""
        for sequence in batch.constrained:
            constraint = sequence.constraint
            if constraint is None or constraint.ready or not constraint.slow or sequence.awaits_mask:
                continue
            if sequence.id in self._sequences:
                self._sit_out(sequence)
                self._threads.start_slow(sequence.id, constraint)

    def resume(self, identity: int) -> None:
        """The late mask of a sequence is there. The sequence may have been cancelled meanwhile."""
        if (sequence := self._sequences.get(identity)) is not None:
            sequence.awaits_mask = False
            self._scheduler.replan()

    def close(self) -> None:
        """End the threads."""
        self._threads.close()

    def _sit_out(self, sequence: Sequence) -> None:
        sequence.awaits_mask = True
        self._counters.late_masks += 1
        self._scheduler.replan()
