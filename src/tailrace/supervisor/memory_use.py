"""The memory that a model's engines take, as the kernel counts it, and may still come to take, as they report it.

Private pages count for each engine, also where they are swapped out. Of a mapped model file only the part counts that
steps read, and once for all engines: the kernel may drop the rest, and it is the same memory in a control group.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tailrace.observe.kernel_file import first_number, read_fields
from tailrace.supervisor.child_process import ChildProcess

#: The kernel's names of what is a process's own (proc(5)), in kB.
_OWN = ("RssAnon", "RssShmem", "VmSwap")
#: Part of the last report by which the memory has to change for the next one.
_WORTH_A_REPORT = 0.05


def measure(engines: Iterable[ChildProcess], proc: Path = Path("/proc")) -> int | None:
    """Bytes; None where an engine isn't ready, or the system doesn't say."""
    total = mapped = 0.0
    for engine in engines:
        page, pid = engine.page, engine.pid
        if page is None or pid is None or not engine.serves:
            return None
        fields = read_fields(proc / str(pid) / "status")
        if _OWN[0] not in fields:
            return None
        total += 1024 * sum(first_number(fields.get(name, "")) for name in _OWN) + page.growth
        mapped = max(mapped, page.mapped)
    return int(total + mapped) or None


def is_news(measured: int, reported: int) -> bool:
    """Whether the memory differs enough from the last report."""
    return abs(measured - reported) > _WORTH_A_REPORT * reported
