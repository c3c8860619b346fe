"""Computes the masks of a step's replies on a thread of its own, while the model computes their logits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from tailrace.engine.grammar.constraint import Constraint
from tailrace.machine.binding import bind_cpus


class MaskThread:
    """``start`` before the model's step, ``wait`` after it. The thread is made when first needed."""

    def __init__(self, cpus: frozenset[int]) -> None:
        """``cpus``: where it may run. It would inherit the loop's, which computes on one of its own meanwhile."""
        self._cpus = cpus
        self._work: queue.SimpleQueue[Sequence[Constraint] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = False

    def start(self, constraints: Sequence[Constraint]) -> None:
        """Begin to compute these masks; nobody else may touch the constraints before ``wait`` has returned."""
        if not constraints:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="masks", daemon=True)
            self._thread.start()
        self._busy = True
        self._work.put(constraints)

    def wait(self) -> None:
        """Return when what was started is done. An exception of the thread is raised here."""
        if not self._busy:
            return
        self._busy = False
        error = self._done.get()
        if error is not None:
            raise error

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        bind_cpus(self._cpus)
        while (constraints := self._work.get()) is not None:
            error: BaseException | None = None
            try:
                for constraint in constraints:
                    constraint.compute()
            except BaseException as caught:
                error = caught  # Told to the loop, which ends by it.
            self._done.put(error)
