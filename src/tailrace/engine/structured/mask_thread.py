"""Computes the masks of a step's replies on a thread of its own, while the model computes their logits."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable

import structlog

from tailrace.engine.structured.constraint import Constraint
from tailrace.errors import ConfigurationError
from tailrace.machine.binding import bind_cpus


class MaskThread:
    """``start`` before the model's step, ``wait`` after it. The thread starts with the first mask."""

    def __init__(self, cpus: frozenset[int]) -> None:
        """``cpus``: the thread's own. It would inherit the loop's CPU, which computes logits meanwhile."""
        self._cpus = cpus
        self._pending: deque[Constraint] = deque()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._computing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._can_start = True
        self._error: BaseException | None = None

    def start(self, constraints: Iterable[Constraint]) -> None:
        """Begin to compute these masks. Until ``wait`` has returned, only this object may touch the constraints."""
        self._pending.extend(constraints)
        if not self._pending:
            return
        if self._thread is None and not self._start_thread():
            return
        self._wake.put(True)

    def wait(self) -> None:
        """Return when all masks are computed. Masks that the thread hasn't begun are computed here: where all cores are
        busy, the thread may get none for many milliseconds.

        A mask that can't be computed fails its own reply: see ``Constraint.compute_or_fail``.
        """
        self._compute()
        if self._thread is None:
            return
        with self._computing:  # The thread may be computing the last one.
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._wake.put(False)
            self._thread.join()
            self._thread = None

    def _start_thread(self) -> bool:
        """False where the system has no thread left: then ``wait`` computes all masks."""
        if not self._can_start:
            return False
        thread = threading.Thread(target=self._run, name="masks", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._can_start = False
            structlog.get_logger().error("no thread for masks: they are computed by the loop", error=str(error))
            return False
        self._thread = thread
        return True

    def _compute(self) -> None:
        while True:
            try:
                constraint = self._pending.popleft()
            except IndexError:  # All are done, or the other thread has taken the last.
                return
            constraint.compute_or_fail()

    def _run(self) -> None:
        try:
            bind_cpus(self._cpus)
        except ConfigurationError as error:
            structlog.get_logger().error("the thread for masks isn't bound to its CPUs", error=str(error))
        while self._wake.get():
            with self._computing:
                try:
                    self._compute()
                except BaseException as error:
                    self._error = error  # ``wait`` raises it in the loop.
