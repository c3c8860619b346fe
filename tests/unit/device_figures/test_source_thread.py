"""A source of figures that hangs or fails costs its own figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from servers import PATIENCE
from tailrace.device_figures.source_thread import HANG_SECONDS, STALE_SECONDS, SourceThread
from tailrace.worker_protocol.device_reading import DeviceReading

CPU = DeviceReading(device="cpu", use=0.5)


class Clock:
    """Seconds as the test sets them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Answers with ``error`` or a reading, when it may."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.reads = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def read(self) -> list[DeviceReading]:
        self.reads += 1
        assert self.may_answer.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return [CPU]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Iterator[Source]:
    found = Source()
    yield found
    found.may_answer.set()


@pytest.fixture
def thread(source: Source, clock: Clock) -> SourceThread:
    return SourceThread("scripted", source.read, clock, pause=30.0)


def read(thread: SourceThread, clock: Clock) -> tuple[DeviceReading, ...]:
    """Ask, and wait for what comes."""
    thread.ask()
    deadline = time.monotonic() + PATIENCE
    while thread.is_awaited:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return thread.latest()


def warnings(logs: list[Any]) -> list[str]:
    return [entry["reason"] for entry in logs if entry["log_level"] == "warning"]


def test_nothing_is_read_before_it_is_asked_for(thread: SourceThread, source: Source, clock: Clock) -> None:
    assert thread.latest() == ()
    assert source.reads == 0
    assert read(thread, clock) == (CPU,)


def test_all_that_ask_at_once_share_a_reading(thread: SourceThread, source: Source, clock: Clock) -> None:
    for _ in range(5):
        assert read(thread, clock) == (CPU,)
    assert source.reads == 1
    clock.now += 1
    assert read(thread, clock) == (CPU,)
    assert source.reads == 2


def test_an_old_reading_is_missing(thread: SourceThread, clock: Clock) -> None:
    read(thread, clock)
    clock.now += STALE_SECONDS
    assert thread.latest() == ()


def test_a_source_that_fails_is_told_once_and_asked_later(thread: SourceThread, source: Source, clock: Clock) -> None:
    source.error = RuntimeError("GPU is lost")
    with capture_logs() as logs:
        for _ in range(5):
            assert read(thread, clock) == ()
            clock.now += 1
        assert source.reads == 1, "it has a pause"
        clock.now += 30
        assert read(thread, clock) == ()
    assert source.reads == 2
    assert warnings(logs) == ["GPU is lost"]
    source.error = None
    clock.now += 30
    assert read(thread, clock) == (CPU,)


def test_a_source_that_hangs_is_told_once_and_waited_for_by_none(
    thread: SourceThread, source: Source, clock: Clock
) -> None:
    source.may_answer.clear()
    with capture_logs() as logs:
        thread.ask()
        deadline = time.monotonic() + PATIENCE
        while not source.reads:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        clock.now += HANG_SECONDS
        for _ in range(3):
            thread.ask()
        assert not thread.is_awaited
        thread.wait(clock.now + 1e9)  # It returns at once.
        assert thread.latest() == ()
    assert warnings(logs) == ["it doesn't answer"]
    assert source.reads == 1, "there is one thread, however often it is asked"
    source.may_answer.set()
    while not thread.latest():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_wait_ends_with_the_reading(source: Source) -> None:
    thread = SourceThread("scripted", source.read)
    source.may_answer.clear()
    thread.ask()
    threading.Timer(0.05, source.may_answer.set).start()
    thread.wait(time.monotonic() + PATIENCE)
    # A busy machine may take longer than a reading is waited for.
    deadline = time.monotonic() + PATIENCE
    while not thread.latest():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_wait_has_an_end(source: Source) -> None:
    thread = SourceThread("scripted", source.read)
    source.may_answer.clear()
    thread.ask()
    thread.wait(time.monotonic() + 0.02)
    assert thread.latest() == ()
