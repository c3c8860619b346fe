"""Clusters of several Ray nodes on one machine: collected by ``make test-cluster`` alone, because they take minutes and
measure times.

Each test records its figures beside their bounds; the table is printed at the end of the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fault_figures import FigureTable, Record

if "TAILRACE_TEST_CLUSTER" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

_table = FigureTable()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """Records figures; all of a test's are recorded before one that is over its bound fails it."""
    with _table.of(request.node.name) as add:
        yield add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of figures."""
    _table.print(terminalreporter)
