"""Computes the masks of a step's replies on a thread of its own, while the model computes their logits."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable

from tailrace.engine.structured.constraint import Constraint
from tailrace.machine.binding import bind_cpus


class MaskThread:
    """``start`` before the model's step, ``wait`` after it. The thread is made when first needed."""

    def __init__(self, cpus: frozenset[int]) -> None:
        """``cpus``: where it may run. It would inherit the loop's, which computes on one of its own meanwhile."""
        self._cpus = cpus
        self._todo: deque[Constraint] = deque()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._computing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, constraints: Iterable[Constraint]) -> None:
        """Begin to compute these masks; nobody else may touch the constraints before ``wait`` has returned."""
        self._todo.extend(constraints)
        if not self._todo:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="masks", daemon=True)
            self._thread.start()
        self._wake.put(True)

    def wait(self) -> None:
        """Return when what was started is done. What the thread hasn't begun is done here: on a machine whose cores are
        all busy it may get none for many milliseconds. An exception of the thread is raised here.
        """
        if self._thread is None:
            return
        self._compute()
        with self._computing:  # It may have one in hand.
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._wake.put(False)
            self._thread.join()
            self._thread = None

    def _compute(self) -> None:
        while True:
            try:
                constraint = self._todo.popleft()
            except IndexError:  # Nothing is left, or the other thread was faster.
                return
            constraint.compute()

    def _run(self) -> None:
        bind_cpus(self._cpus)
        while self._wake.get():
            with self._computing:
                try:
                    self._compute()
                except BaseException as error:
                    self._error = error  # Told to the loop, which ends by it.
