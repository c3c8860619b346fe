"""The page that a child writes and the supervisor reads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tailrace.shared_memory.memory_file import create_page
from tailrace.shared_memory.progress_page import Phase, ProgressPage, allowed_silence

_CHILD = """
import os, sys
from tailrace.shared_memory.progress_page import Phase, ProgressPage
page = ProgressPage(int(sys.argv[1]))
page.phase = Phase.SERVING
page.longest = 2.5
page.beat(17.0)
page.helper = 3.0
page.reloads = 4
page.ready = True
page.message = "out of luck: \\u20ac"
os.kill(os.getpid(), 9)
"""


def test_another_process_s_reports_outlive_its_death() -> None:
    fd = create_page()
    page = ProgressPage(fd)
    assert (page.phase, page.has_served, page.ready, page.message) == (Phase.STARTING, False, False, "")
    subprocess.run([sys.executable, "-c", _CHILD, str(fd)], pass_fds=(fd,), check=False)
    os.close(fd)
    assert (page.phase, page.has_served, page.ready, page.reloads) == (Phase.SERVING, True, True, 4)
    assert (page.beats, page.longest, page.helper) == (17.0, 2.5, 3.0)
    assert page.message == "out of luck: €"
    page.close()


def test_a_phase_is_a_beat_and_serving_is_remembered() -> None:
    page = ProgressPage()
    page.phase = Phase.SERVING
    assert page.beats > 0.0
    page.phase = Phase.LOADING
    assert page.has_served


@pytest.mark.parametrize("text", ["x" * 10_000, "€" * 10_000, "\ud800"])
def test_a_message_of_any_length_fits(text: str) -> None:
    page = ProgressPage()
    page.message = text
    assert 0 < len(page.message) < 4096
    page.message = ""
    assert page.message == ""


@pytest.mark.parametrize(("hang", "longest", "allowed"), [(10.0, 0.1, 10.0), (10.0, 12.0, 60.0), (0.5, 0.2, 1.0)])
def test_a_silence_may_be_as_long_as_five_steps(hang: float, longest: float, allowed: float) -> None:
    assert allowed_silence(hang, longest) == allowed
