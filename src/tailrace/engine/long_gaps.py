"""Logs what the loop did in a long gap between two tokens of running replies.

It measures the parts of each gap and changes nothing. The processor time is that of the loop's thread, so a gap with
little of it was another program's doing, or a wait.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterable

import structlog

from tailrace.engine.kv_cache.cache_ops import CacheOp
from tailrace.engine.sequence import Sequence

#: A gap that is shorter than this many steps without prompts isn't long, however large the model is.
_MIN_STEPS = 3.0
#: The processor time of shorter parts isn't read, because that takes a microsecond. It counts for the next longer one.
_SHORT_SECONDS = 0.0005


class LongGaps:
    """The parts of the gap that is running."""

    def __init__(self, bound_seconds: float) -> None:
        """``bound_seconds``: longer gaps are logged; 0: none, and nothing is measured."""
        self._bound = bound_seconds
        #: The name of each part, when it ended, and the processor time at its end.
        self._marks: list[tuple[str, float, float]] = []
        self._ops: list[CacheOp] = []
        self._waiting: set[int] = set()  #: replies that have had a token and wait for the next one
        self._now = self._begun = time.perf_counter()
        self._cpu = self._begun_cpu = time.thread_time()
        self._usage = _usage()

    def mark(self, part: str) -> None:
        """The time since the last mark was spent on ``part``."""
        if not self._bound:
            return
        now = time.perf_counter()
        if now - self._now > _SHORT_SECONDS:
            self._cpu = time.thread_time()
        self._now = now
        self._marks.append((part, now, self._cpu))

    def note(self, ops: Iterable[CacheOp]) -> None:
        """These cache ops were applied in this gap."""
        if self._bound:
            self._ops += ops

    def drop(self, identity: int) -> None:
        """This reply waits no more: it has ended or was cancelled."""
        self._waiting.discard(identity)

    def end(self, sampled: Iterable[Sequence], prompt_tokens: int, quiet_seconds: float) -> None:
        """A step has sent the tokens of the ``sampled`` replies; it had ``prompt_tokens`` beside them. Replies that
        began in it haven't waited. ``quiet_seconds``: of such a step without prompts.
        """
        if not self._bound:
            return
        replies = {sequence.id for sequence in sampled}
        waited = len(replies & self._waiting)
        if self._waiting and not waited:
            self._waiting |= replies
            return  # The step had a prompt alone: replies go on waiting.
        self._cpu, usage = time.thread_time(), _usage()
        if waited and self._now - self._begun > max(self._bound, _MIN_STEPS * quiet_seconds):
            self._report(waited, prompt_tokens, usage)
        self._waiting = replies
        self._marks.clear()
        self._ops.clear()
        self._begun, self._begun_cpu, self._usage = self._now, self._cpu, usage

    def _report(self, replies: int, prompt_tokens: int, usage: tuple[int, int, int]) -> None:
        faults, major_faults, interruptions = (now - before for now, before in zip(usage, self._usage, strict=True))
        ops = Counter(type(op).__name__.lower() for op in self._ops)
        structlog.get_logger().info(
            "replies waited",
            ms=round(1e3 * (self._now - self._begun)),
            cpu_ms=round(1e3 * (self._cpu - self._begun_cpu)),
            parts=", ".join(
                f"{name} {1e3 * seconds:.0f} (CPU {1e3 * cpu:.0f})" for name, seconds, cpu in self._longest_parts()
            ),
            replies=replies,
            prompt_tokens=prompt_tokens,
            cache_ops=", ".join(f"{count} {name}" for name, count in ops.items()),
            page_faults=faults,
            disk_faults=major_faults,
            interruptions=interruptions,
        )

    def _longest_parts(self) -> list[tuple[str, float, float]]:
        """Name, seconds and processor seconds of each part that isn't short, the longest first."""
        parts: dict[str, tuple[float, float]] = {}
        begun, begun_cpu = self._begun, self._begun_cpu
        for name, now, cpu in self._marks:
            seconds, processor = parts.get(name, (0.0, 0.0))
            parts[name] = seconds + now - begun, processor + cpu - begun_cpu
            begun, begun_cpu = now, cpu
        found = [(name, *times) for name, times in parts.items() if times[0] > _SHORT_SECONDS]
        return sorted(found, key=lambda part: -part[1])


def _usage() -> tuple[int, int, int]:
    """Of this thread: pages that were first touched, pages that came from a disk, and times that it lost its CPU."""
    found = resource.getrusage(resource.RUSAGE_THREAD)
    return found.ru_minflt, found.ru_majflt, found.ru_nivcsw
