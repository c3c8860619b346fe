"""A thread's name is the kernel's, too."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from tailrace.own_process.thread_name import name_thread


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc to read it from")
def test_only_this_thread_is_named() -> None:
    names: list[str] = []

    def read() -> None:
        name_thread("grammar compiler")
        names.append(Path("/proc/thread-self/comm").read_text())

    before = Path("/proc/self/comm").read_text()
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert names == ["grammar compile\n"], "the kernel keeps 15 bytes"
    assert Path("/proc/self/comm").read_text() == before
