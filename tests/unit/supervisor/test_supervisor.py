"""The supervisor over children that fail: back-off, the end with a reason, and what it survives."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tailrace.supervisor.child_process import status_name


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (0, "exit status 0"),
        (78, "exit status 78"),
        (-signal.SIGKILL, "SIGKILL"),
        (-signal.SIGSEGV, "SIGSEGV"),
        (-35, "signal 35"),
        (-63, "signal 63"),
    ],
)
def test_every_signal_has_a_name(status: int, shown: str) -> None:
    """Most real-time signals have none in Python."""
    assert status_name(status) == shown


#: A supervisor whose children run other code. ``{setup}`` may change more.
SCRIPT = """
import os, sys
from tailrace.observe import logs
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings
from tailrace.supervisor import Supervisor, child_process, restarts, supervisor

logs.configure("supervisor", level="info", form="console")
restarts._BACKOFF = {backoff}
real = child_process.subprocess.Popen
bodies = {{"tailrace.engine.process": {engine!r}, "tailrace.server.process": {http!r}}}
def start(command, **options):
    body = bodies[command[command.index("-m") + 1]]
    return real([sys.executable, "-c", body] if body else command, **options)
child_process.subprocess.Popen = start
{setup}
settings = Settings(backend="fake", port=0, **{settings!r})
sys.exit(Supervisor(settings, (ModelSpec(name="fake", path=None, settings=settings, at_start=True),)).run())
"""
#: A child that reports that it serves, and then does ``then``.
SERVES = """
import sys, json, os, time, signal
from tailrace.shared_memory.progress_page import Phase, ProgressPage
orders = json.load(sys.stdin)
page = ProgressPage(orders["progress_fd"])
page.phase = Phase.SERVING
{then}
"""
WAITS = SERVES.format(then="time.sleep(600)")


def script(
    engine: str | None = None,
    http: str | None = WAITS,
    *,
    backoff: tuple[float, ...] = (0.0,),
    setup: str = "",
    **settings: object,
) -> str:
    return SCRIPT.format(engine=engine, http=http, backoff=backoff, setup=setup, settings=settings)


@contextmanager
def running(code: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **{"stdin": subprocess.DEVNULL, **options},  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], text: str) -> str:
    """The log's next line with ``text``."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the log ended without {text!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_ends_it_while_a_child_waits_for_its_next_start(number: signal.Signals) -> None:
    with running(script("pass", backoff=(600.0,))) as process:
        until(process, "restart_in")
        process.send_signal(number)
        assert process.wait(60) == 0


def ended(code: str) -> tuple[int, str]:
    """The exit status of a supervisor that ends by itself, and the last line of its log."""
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, re.sub("\x1b.*?m", "", done.stderr.strip().splitlines()[-1])


def test_an_engine_that_never_becomes_ready_ends_the_server_with_its_last_message() -> None:
    dies = SERVES.replace("page.phase = Phase.SERVING", "page.message = 'tensor 7'").format(
        then="os.kill(os.getpid(), signal.SIGSEGV)"
    )
    status, last = ended(script(dies))
    assert status == 78
    assert "the model can't be loaded: SIGSEGV: tensor 7" in last
    assert "ready: 3" in last


def test_a_failed_check_of_llama_cpp_at_the_first_load_ends_the_server_at_once() -> None:
    aborts = SERVES.replace("page.phase = Phase.SERVING", "page.message = 'llama.cpp aborted: n_layer'").format(
        then="os.abort()"
    )
    status, last = ended(script(aborts))
    assert status == 78
    assert "the model can't be loaded: SIGABRT: llama.cpp aborted: n_layer" in last
    assert "ready: 1" in last


def test_an_engine_that_keeps_dying_ends_the_server_at_the_limit() -> None:
    status, last = ended(script(SERVES.format(then="os.kill(os.getpid(), signal.SIGSEGV)"), restart_limit=4))
    assert status == 70
    assert "died 4 times" in last
    assert "SIGSEGV" in last


def test_an_http_process_that_can_not_start_ends_the_server() -> None:
    status, last = ended(script(WAITS, "import sys; sys.exit(5)"))
    assert status == 70
    assert "the HTTP process can't start" in last
    assert "exit status 5" in last


def test_a_child_that_says_that_its_settings_can_t_work_ends_the_server_at_once() -> None:
    says = SERVES.replace("page.phase = Phase.SERVING", "page.message = 'no such layer'").format(then="sys.exit(78)")
    status, last = ended(script(says))
    assert status == 78
    assert "no such layer" in last


def test_a_start_that_the_system_refuses_is_tried_again() -> None:
    """As when there are no processes, descriptors or memory left."""
    refused = """
import errno
failures = [errno.EAGAIN, errno.ENOMEM, errno.EMFILE]
allowed = child_process.subprocess.Popen
def refuse(command, **options):
    if failures:
        number = failures.pop()
        raise OSError(number, os.strerror(number))
    return allowed(command, **options)
child_process.subprocess.Popen = refuse
"""
    with running(script(WAITS, setup=refused)) as process:
        for reason in ("Too many open files", "Cannot allocate memory", "temporarily unavailable"):
            assert "can't be started" in until(process, reason)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_state_that_can_not_be_written_is_a_warning(tmp_path: Path) -> None:
    """The temporary folder is gone, and children die meanwhile."""
    code = script(SERVES.format(then="os.kill(os.getpid(), 9)"), restart_limit=3)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path / "gone")},
    )
    assert done.returncode == 70, done.stderr
    assert done.stderr.count("its state can't be written") <= 1
    assert "Traceback" not in done.stderr


#: A child that says when it can be signalled.
UP = WAITS.replace("time.sleep(600)", "print('up', file=sys.stderr, flush=True); time.sleep(600)")


def test_a_hang_up_reloads_while_the_terminal_is_there_and_stops_without_it() -> None:
    terminal, inside = pty.openpty()
    with running(script(UP), stdin=inside) as process:
        os.close(inside)
        until(process, "up")
        process.send_signal(signal.SIGHUP)
        until(process, "reloading")
        assert process.poll() is None
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0


def test_stray_signals_end_nothing() -> None:
    with running(
        script(
            WAITS.replace(
                "time.sleep(600)",
                "signal.signal(10, signal.SIG_IGN); print('up', file=sys.stderr, flush=True); time.sleep(600)",
            )
        )
    ) as process:
        until(process, "up")
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGWINCH):
            process.send_signal(number)
        until(process, "reloading")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
