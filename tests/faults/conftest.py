"""Faults on real processes: collected by ``make test-faults`` alone, because they take minutes and measure times.

Each test records its figures beside their bounds; the table is printed at the end of the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fault_figures import Figure, Record

if "TAILRACE_TEST_FAULTS" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

#: All figures of the run.
_FIGURES: list[Figure] = []


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """Records figures; all of a test's are recorded before one that is over its bound fails it."""
    own: list[Figure] = []

    def add(what: str, value: float, bound: float, unit: str) -> None:
        own.append(Figure(request.node.name, what, value, bound, unit))

    yield add
    _FIGURES.extend(own)
    over = ["  ".join(figure.row) for figure in own if figure.value > figure.bound]
    assert not over, "over the bound:\n" + "\n".join(over)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of figures."""
    if not _FIGURES:
        return
    terminalreporter.section("figures")
    rows = [figure.row for figure in _FIGURES]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
