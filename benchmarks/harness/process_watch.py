"""The memory and file descriptors of a server's processes over time, by Linux's /proc."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import msgspec

from benchmarks.harness.process_tree import Descendant, find_descendants

#: What the processes are called, by a word of their command line.
_ROLES = {
    b"tailrace.engine.process": "engine",
    b"tailrace.server.process": "HTTP process",
    b"tailrace.engine.backends.llama.tokenize_worker": "tokeniser",
    b"tailrace.engine.structured.grammar_sandbox_worker": "grammar sandbox",
}


class Sample(msgspec.Struct):
    """One process at one time. ``seconds``: since the watch began. ``memory``: bytes that the kernel can't drop."""

    role: str
    pid: int
    seconds: float
    memory: int
    descriptors: int


class ProcessWatch:
    """Samples all processes that descend from this one and have a role, every ``period`` seconds."""

    def __init__(self, period: float) -> None:
        self.samples: list[Sample] = []
        self._period = period
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._period):
            self.samples += take_samples(time.monotonic() - self._begun)


def take_samples(seconds: float = 0.0) -> list[Sample]:
    """All processes with a role now."""
    samples: list[Sample] = []
    for process in find_descendants():
        if (role := _role(process)) is None:
            continue
        # The process may have just ended.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            descriptors = sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
            samples.append(Sample(role, process.pid, seconds, _memory(process.pid), descriptors))
    return samples


def _memory(pid: int) -> int:
    """The proportional set size without files. Shared pages count in parts, so copies after a fork don't count twice.

    Pages of files are left out: the kernel drops them when it needs memory, and another process that maps the model's
    file changes this one's part of them.
    """
    sizes = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return 1024 * sum(int(sizes[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))


def _role(process: Descendant) -> str | None:
    found = next((role for word, role in _ROLES.items() if word in process.words), None)
    if found is None and b"serve" in process.words and process.parent == os.getpid():
        return "supervisor"
    return found
