"""When a silent child counts as hung."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace.shared_memory.progress_page import Phase, ProgressPage
from tailrace.supervisor.watch import Watch


def page(phase: Phase = Phase.SERVING, longest: float = 0.0) -> ProgressPage:
    made = ProgressPage()
    made.phase = phase
    made.longest = longest
    return made


def looks(watch: Watch, count: int) -> list[str | None]:
    return [watch.look(1.0) for _ in range(count)]


def first_hang(watch: Watch, count: int = 2000) -> int | None:
    """The number of the look that finds a hang."""
    found = looks(watch, count)
    return next((number for number, reason in enumerate(found, 1) if reason is not None), None)


@pytest.mark.parametrize(("longest", "found"), [(0.0, 11), (1.9, 11), (4.0, 21), (60.0, 301)])
def test_silence_is_a_hang_after_ten_seconds_or_five_steps(longest: float, found: int) -> None:
    assert first_hang(Watch(page(longest=longest), os.getpid(), 10.0)) == found


def test_a_step_that_turns_out_longer_extends_the_limit_of_the_next() -> None:
    its = page()
    watch = Watch(its, os.getpid(), 10.0)
    assert looks(watch, 9) == [None] * 9
    its.longest = 9.0
    its.beat(1.0)
    assert first_hang(watch) == 1 + 46


def test_progress_ends_the_silence() -> None:
    its = page()
    watch = Watch(its, os.getpid(), 10.0)
    for number in range(100):
        if number % 9 == 0:
            its.beat(float(number + 1))
        assert watch.look(1.0) is None


def test_a_model_that_loads_may_be_silent_for_minutes() -> None:
    assert first_hang(Watch(page(Phase.LOADING), os.getpid(), 10.0)) == 601


def test_a_helper_thread_that_is_stuck_is_a_hang_although_the_loop_goes_on() -> None:
    its = page()
    watch = Watch(its, os.getpid(), 10.0)
    its.helper = 5.0
    found = []
    for number in range(20):
        its.beat(float(number + 1))
        found.append(watch.look(1.0))
    assert [reason is not None for reason in found].index(True) == 11
    assert "helper thread" in str(found[-1])


def test_a_helper_thread_with_one_item_after_the_other_works() -> None:
    its = page()
    watch = Watch(its, os.getpid(), 10.0)
    for number in range(100):
        its.beat(float(number + 1))
        its.helper = 5.0 + number // 5
        assert watch.look(1.0) is None


def test_an_excuse_begins_anew() -> None:
    watch = Watch(page(), os.getpid(), 10.0)
    looks(watch, 9)
    watch.excuse()
    assert first_hang(watch) == 11


def state(folder: Path, letter: str, tracer: int = 0) -> Path:
    """The kernel's files of process 7 in this state."""
    process = folder / "7"
    process.mkdir(exist_ok=True)
    (process / "stat").write_text(f"7 (a ) b) {letter} {' '.join(['1'] * 48)}")
    (process / "status").write_text(f"Name:\tx\nTracerPid:\t{tracer}\n")
    return folder


@pytest.mark.parametrize("phase", list(Phase))
def test_a_stopped_process_hangs_however_long_its_steps_are(phase: Phase, tmp_path: Path) -> None:
    watch = Watch(page(phase, longest=60.0), 7, 10.0, state(tmp_path, "T"))
    assert first_hang(watch) in (10, 11)
    assert watch.is_stopped


def test_a_process_that_is_stopped_and_continued_again_and_again_is_not_stopped(tmp_path: Path) -> None:
    its = page(longest=60.0)
    watch = Watch(its, 7, 10.0, state(tmp_path, "T"))
    for _ in range(10):
        assert looks(watch, 9) == [None] * 9
        its.beat(its.beats + 1)
        assert watch.look(1.0) is None


def test_a_process_under_a_debugger_is_left_alone(tmp_path: Path) -> None:
    assert first_hang(Watch(page(), 7, 10.0, state(tmp_path, "t", tracer=99))) is None


def test_a_busy_process_is_not_stopped(tmp_path: Path) -> None:
    watch = Watch(page(longest=60.0), 7, 10.0, state(tmp_path, "R"))
    assert first_hang(watch) == 301
    assert not watch.is_stopped
