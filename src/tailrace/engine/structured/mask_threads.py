"""Computes the masks of replies beside the loop, so that no reply waits long for another one's grammar.

Masks that were quick so far are computed while the model computes the logits: ``start`` before the model's step,
``wait`` after it. A mask that isn't there in time is late: its reply sits out the following steps, and ``announce``
says when it may go on. Masks that were slow are computed ahead, by a thread of low priority (``start_slow``).

llguidance can't be interrupted. A thread with a late mask gets low priority and ends with that mask, and another thread
takes its place. The loop itself computes masks only where the system has no thread left.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import structlog

from tailrace.engine.structured.constraint import Constraint
from tailrace.errors import ConfigurationError
from tailrace.machine.binding import bind_cpus
from tailrace.own_process.thread_name import name_thread
from tailrace.own_process.thread_priority import lower_priority

#: Threads that go on with late masks. Further masks wait for them: their CPU time is bounded so.
_MAX_LATE = 4
#: The thread with slow masks rests for as long as a mask took, up to so many seconds.
_MAX_REST = 0.1
#: Seconds for threads to end; one with a slow mask may go on for longer, and harms no other.
_JOIN_SECONDS = 1.0


class MaskReady(NamedTuple):
    """A reply's mask is computed after the reply has sat out. ``id``: its sequence's."""

    id: int


Announce = Callable[[MaskReady], None]


class _Job:
    """One mask. The lock of ``MaskThreads`` guards it."""

    __slots__ = ("constraint", "done", "id", "late")

    def __init__(self, identity: int, constraint: Constraint) -> None:
        self.id = identity
        self.constraint = constraint
        self.done = False
        self.late = False  #: ``wait`` has given up


class MaskThreads:
    """The masks of a loop's replies. Threads start when they are first needed."""

    def __init__(self, cpus: frozenset[int], announce: Announce = lambda ready: None) -> None:
        """``cpus``: the threads' own. They would inherit the loop's CPU, which computes logits meanwhile. ``announce``
        is called on any thread.
        """
        self.cpus = cpus
        self._announce = announce
        self._lock = threading.Lock()
        self._todo: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._started: dict[int, _Job] = {}  #: jobs that ``wait`` waits for, by the sequence's id
        self._worker: _Worker | None = None
        self._late_workers = 0
        self._slow: dict[int, Constraint] = {}  #: in the order of ``start_slow``
        self._slow_wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._slow_thread: threading.Thread | None = None
        self._can_start = True

    def start(self, constraints: Iterable[tuple[int, Constraint]]) -> None:
        """Begin to compute masks of sequences (by id). Until ``wait`` has returned, only this object may touch the
        constraints; those of late masks until they are announced.
        """
        jobs = [_Job(identity, constraint) for identity, constraint in constraints]
        if not jobs:
            return
        if len(jobs) > 1:
            jobs.sort(key=lambda job: job.constraint.last_seconds)
        self._started = {job.id: job for job in jobs}
        self._ensure_worker()
        for job in jobs:
            self._todo.put(job)

    def wait(self, seconds: float | None) -> list[int]:
        """Wait up to ``seconds`` for the masks (None: for all). Returns the ids of the sequences whose masks are late.

        A mask that can't be computed fails its own reply: see ``Constraint.compute_or_fail``.
        """
        started = self._started
        if not started:
            return []
        if self._worker is None and not self._late_workers:
            return self._compute_here()
        deadline = None if seconds is None else time.monotonic() + seconds
        while started:
            try:
                job = self._done.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return self._give_up()
            started.pop(job.id, None)
        return []

    def start_slow(self, identity: int, constraint: Constraint) -> None:
        """Compute a slow mask, after the token that the constraint has deferred; then announce it."""
        with self._lock:
            self._slow[identity] = constraint
        if self._slow_thread is None and not self._start_slow_thread():
            self._compute_slow()
            return
        self._slow_wake.put(True)

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            self._slow.clear()
        worker, self._worker = self._worker, None
        slow, self._slow_thread = self._slow_thread, None
        if worker is not None:
            self._todo.put(None)
            worker.join(_JOIN_SECONDS)
        if slow is not None:
            self._slow_wake.put(False)
            slow.join(_JOIN_SECONDS)

    def _give_up(self) -> list[int]:
        """The masks that are still missing are late."""
        with self._lock:
            late = [job.id for job in self._started.values() if not job.done]
            for job in self._started.values():
                job.late = not job.done
            worker = self._worker
            stuck = worker is not None and worker.job is not None and worker.job.late
            if worker is not None and stuck and self._late_workers < _MAX_LATE:
                worker.ends = True
                worker.lower_priority()
                self._late_workers += 1
                self._worker = None
        while not self._done.empty():
            self._done.get()  # They were done just now.
        self._started = {}
        if late:
            self._ensure_worker()  # For late masks that aren't begun.
        return late

    def _ensure_worker(self) -> None:
        if self._worker is None:
            self._worker = self._start_thread(_Worker(self))

    def _start_thread(self, thread: _Worker) -> _Worker | None:
        """The thread, started; None where the system has no thread left."""
        if not self._can_start:
            return None
        try:
            thread.start()
        except RuntimeError as error:
            self._can_start = False
            structlog.get_logger().error("no thread for masks: they are computed by the loop", error=str(error))
            return None
        return thread

    def _start_slow_thread(self) -> bool:
        """False where the system has no thread left: then the loop computes all masks."""
        if not self._can_start:
            return False
        thread = threading.Thread(target=self._run_slow, name="slow masks", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._can_start = False
            structlog.get_logger().error("no thread for masks: they are computed by the loop", error=str(error))
            return False
        self._slow_thread = thread
        return True

    def _compute_here(self) -> list[int]:
        with contextlib.suppress(queue.Empty):
            while True:
                self._todo.get_nowait()
        for job in self._started.values():
            job.constraint.compute_or_fail()
        self._started = {}
        return []

    def run_job(self, worker: _Worker) -> bool:
        """Compute the next mask on ``worker``; False when the thread has to end."""
        job = self._todo.get()
        if job is None:
            return False
        with self._lock:
            worker.job = job
        try:
            job.constraint.compute_or_fail()
        finally:
            with self._lock:
                job.done, worker.job = True, None
                late = job.late
                if worker.ends:
                    self._late_workers -= 1
                if not late:
                    self._done.put(job)
        if late:
            self._announce(MaskReady(job.id))
        return not worker.ends

    def _run_slow(self) -> None:
        name_thread("slow masks")
        bind(self.cpus)
        lower_priority(threading.get_native_id())
        while self._slow_wake.get():
            time.sleep(min(self._compute_slow(), _MAX_REST))

    def _compute_slow(self) -> float:
        """Compute a mask, if one waits. Returns the processor seconds that it took."""
        with self._lock:
            identity = next(iter(self._slow), None)
            if identity is None:
                return 0.0
            constraint = self._slow.pop(identity)
        constraint.compute_or_fail()
        seconds = constraint.last_seconds
        self._announce(MaskReady(identity))
        return seconds


class _Worker(threading.Thread):
    """A thread for masks that were quick so far. It ends with its mask if that is late."""

    def __init__(self, masks: MaskThreads) -> None:
        super().__init__(name="masks", daemon=True)
        self._masks = masks
        self.job: _Job | None = None  #: what it computes
        self.ends = False  #: with its present mask

    def run(self) -> None:
        """See ``Thread``."""
        bind(self._masks.cpus)
        while self._masks.run_job(self):
            pass

    def lower_priority(self) -> None:
        """Let the model's threads go first. Another thread may call it."""
        if self.native_id is not None:
            lower_priority(self.native_id)


def bind(cpus: frozenset[int]) -> None:
    """Bind the calling thread."""
    try:
        bind_cpus(cpus)
    except ConfigurationError as error:
        structlog.get_logger().error("the thread for masks isn't bound to its CPUs", error=str(error))
