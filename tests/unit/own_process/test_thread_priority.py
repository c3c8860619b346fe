"""A thread's priority is its own."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from tailrace.own_process.thread_priority import LOW, lower_priority


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_only_the_thread_gets_low_priority() -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found: list[int] = []

    def run() -> None:
        lower_priority(threading.get_native_id())
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [max(before, LOW)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
