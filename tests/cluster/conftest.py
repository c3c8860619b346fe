"""Clusters of several Ray nodes on one machine: collected by ``make test-cluster`` alone, because they take minutes and
measure times.

Each test records its figures beside their bounds; the table is printed at the end of the run.
"""

from __future__ import annotations

import os

from fault_figures import FigureTable

if "TAILRACE_TEST_CLUSTER" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

_table = FigureTable()

record, pytest_terminal_summary = _table.fixture(), _table.print
