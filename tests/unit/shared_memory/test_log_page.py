"""The shared rings of log lines: whole lines in their order, whatever a ring's end cuts, and no text of a prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog

from tailrace.observe import logs
from tailrace.shared_memory.log_page import MAX_RINGS, LogLine, LogPage, LogReader, create_log_page


@pytest.fixture
def page() -> Iterator[LogPage]:
    fd = create_log_page()
    yield LogPage(fd)
    os.close(fd)


def test_lines_of_all_processes_come_in_the_order_of_their_times(page: LogPage) -> None:
    page.ring(0).write(2.0, "error", "supervisor", "second")
    page.ring(MAX_RINGS - 1).write(1.0, "info", "engine 255", "first")
    reader = LogReader(page)
    shown = [(line.number, line.level, line.process, line.text) for line in reader.lines(0)]
    assert shown == [(1, "info", "engine 255", "first"), (2, "error", "supervisor", "second")]
    page.ring(1).write(3.0, "warning", "http", "third")
    assert [line.text for line in reader.lines(2)] == ["third"]
    assert reader.lines(3) == []


def test_a_full_ring_has_the_newest_whole_lines(page: LogPage) -> None:
    ring, reader = page.ring(1), LogReader(page)
    for number in range(2000):
        ring.write(float(number), "info", "http", f"line {number} " + "é" * (number % 97))
    found = [line.text for line in reader.lines(0)]
    first = int(found[0].split()[1])
    assert 0 < first < 1900
    assert found == [f"line {number} " + "é" * (number % 97) for number in range(first, 2000)]


def test_a_reader_gets_the_lines_between_two_looks(page: LogPage) -> None:
    ring, reader = page.ring(1), LogReader(page)
    seen: list[LogLine] = []
    for number in range(500):
        ring.write(float(number), "info", "http", f"{number}" + "x" * (number % 1000))
        if number % 7 == 0:
            seen += reader.lines(seen[-1].number if seen else 0)
    seen += reader.lines(seen[-1].number)
    assert [line.time for line in seen] == [float(number) for number in range(500)]


def test_the_next_process_goes_on_in_the_ring(page: LogPage) -> None:
    page.ring(2).write(1.0, "info", "engine", "before")
    page.ring(2).write(2.0, "info", "engine", "after")
    assert [line.text for line in LogReader(page).lines(0)] == ["before", "after"]


def test_a_number_of_an_earlier_server_gives_all_lines(page: LogPage) -> None:
    page.ring(0).write(1.0, "info", "supervisor", "started")
    assert [line.text for line in LogReader(page).lines(900)] == ["started"]


def test_a_long_text_is_cut(page: LogPage) -> None:
    page.ring(0).write(1.0, "strange", "p" * 900, "x" * 100_000)
    (line,) = LogReader(page).lines(0)
    assert (line.level, len(line.process), len(line.text)) == ("info", 200, 8000)


def test_a_logged_prompt_isnt_in_the_ring(page: LogPage, capfd: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        logs.configure("http", level="info", form="console")
        logs.record_in(page.ring(1))
        log = structlog.get_logger()
        log.info("request", status=200, prompt="my secret diary", path="a b\n[error] forged")
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception("a defect", key="value")
    finally:
        logs.record_in(None)
        structlog.configure(**before)
    capfd.readouterr()
    request, defect = LogReader(page).lines(0)
    assert request.text == r'request status=200 path="a b\\n[error] forged"'
    assert (defect.level, defect.process) == ("error", "http")
    assert defect.text.startswith("a defect key=value\nTraceback")
    assert "ValueError: broken" in defect.text
