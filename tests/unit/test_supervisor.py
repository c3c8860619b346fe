"""The supervisor's log of a dead child, and its end while a child waits to be started again."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tailrace.supervisor import _status


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (0, "0"),
        (78, "78"),
        (-signal.SIGKILL, "SIGKILL"),
        (-signal.SIGSEGV, "SIGSEGV"),
        (-35, "signal 35"),
        (-63, "signal 63"),
    ],
)
def test_every_signal_has_a_name(status: int, shown: str) -> None:
    """Most real-time signals have none in Python."""
    assert _status(status) == shown


#: A supervisor whose children die at once and wait ten minutes for their next start.
DYING = """
import sys
from tailrace import supervisor
from tailrace.settings import Settings

supervisor._BACKOFF = (600.0,)
real = supervisor.subprocess.Popen
supervisor.subprocess.Popen = lambda command, **options: real([sys.executable, "-c", "pass"], **options)
sys.exit(supervisor.Supervisor(Settings(backend="fake", port=0), "fake", None).run())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_a_child_waits_for_its_next_start(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", DYING], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"restart_in" in line:
                break
        process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
