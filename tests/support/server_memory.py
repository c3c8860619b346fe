"""What a server's processes hold: memory and open files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from servers import ServerProcess

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def processes(server: ServerProcess) -> list[int]:
    """Supervisor, HTTP process and engines; those of them that run."""
    return [server.pid, *server.children("server"), *server.children("engine")]


def memory_bytes(server: ServerProcess) -> int:
    """Memory of all of the server's processes, shared pages counted in parts."""
    total = 0
    for pid in processes(server):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        found = _PSS.search(text)
        assert found is not None
        total += int(found[1]) * 1024
    return total


def open_files(pid: int) -> int:
    """How many file descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def settled(read: Callable[[], int], bound: float, seconds: float = 20.0) -> int:
    """The value that ``read`` has once it is at most ``bound``, or the last one after ``seconds``."""
    deadline = time.monotonic() + seconds
    while (value := read()) > bound and time.monotonic() < deadline:
        time.sleep(0.25)
    return value
