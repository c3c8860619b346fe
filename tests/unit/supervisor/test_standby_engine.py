"""When a process waits for the next model, and what becomes of one that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tailrace.child import Standby
from tailrace.supervisor import standby_engine
from tailrace.supervisor.standby_engine import StandbyEngine


@pytest.fixture
def standby(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandbyEngine]:
    """One whose process reads its standard input and does nothing else."""

    def open_process(module: str, fds: tuple[int, ...], stdin: int, arguments: tuple[str, ...]) -> object:
        command = [sys.executable, "-c", "import sys; sys.stdin.read()", *arguments]
        return subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, pass_fds=fds)

    monkeypatch.setattr(standby_engine, "open_process", open_process)
    standby = StandbyEngine(Standby(kernels="on", poll=1, imports_llama=False), ())
    yield standby
    standby.close()


def waits(standby: StandbyEngine) -> int | None:
    """The process that waits now."""
    return standby.pid


def test_it_starts_when_no_model_has_loaded_for_a_moment(standby: StandbyEngine) -> None:
    standby.look(100.0, loads=True, computes=False)
    standby.look(100.5, loads=False, computes=False)
    assert waits(standby) is None
    standby.look(101.0, loads=True, computes=False)
    standby.look(101.5, loads=False, computes=False)
    assert waits(standby) is None
    standby.look(103.0, loads=False, computes=False)
    first = waits(standby)
    assert first is not None
    standby.look(200.0, loads=False, computes=False)
    assert waits(standby) == first


def test_it_waits_longer_while_engines_compute(standby: StandbyEngine) -> None:
    standby.look(100.0, loads=False, computes=True)
    standby.look(110.0, loads=False, computes=True)
    assert waits(standby) is None
    standby.look(116.0, loads=False, computes=True)
    assert waits(standby) is not None


def test_it_is_taken_once_and_another_one_starts(standby: StandbyEngine) -> None:
    assert standby.take() is None
    standby.look(100.0, loads=False, computes=False)
    standby.look(102.0, loads=False, computes=False)
    pid = waits(standby)
    taken = standby.take()
    assert taken is not None
    assert taken.process.pid == pid
    assert standby.take() is None
    standby.look(103.0, loads=False, computes=False)
    standby.look(105.0, loads=False, computes=False)
    assert waits(standby) not in (None, pid)
    taken.process.kill()
    taken.process.communicate()
    taken.page.close()


def test_one_that_has_died_is_never_taken_and_replaced_later(standby: StandbyEngine) -> None:
    standby.look(100.0, loads=False, computes=False)
    standby.look(102.0, loads=False, computes=False)
    pid = waits(standby)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    standby.look(103.0, loads=False, computes=False)
    assert waits(standby) is None
    standby.look(110.0, loads=False, computes=False)
    assert waits(standby) is None
    standby.look(170.0, loads=False, computes=False)
    pid = waits(standby)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert standby.take() is None
