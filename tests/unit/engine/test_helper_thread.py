"""A helper thread that dies takes its process down, with the reason in the log."""

from __future__ import annotations

import subprocess
import sys

from tailrace.engine.helper_thread import EXIT_THREAD_DIED

_SCRIPT = """
import threading
from tailrace.engine.helper_thread import HelperThread
def work():
    raise RuntimeError("a defect of the thread")
HelperThread(work, name="worker").start()
threading.Event().wait(60)
"""


def test_a_dead_thread_ends_the_process_and_says_why() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == EXIT_THREAD_DIED
    output = done.stdout + done.stderr
    assert "a helper thread has died" in output
    assert "a defect of the thread" in output
    assert "worker" in output
