"""Models on real workers, on loopback: collected by ``make test-devices`` alone, because they take minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from worker_process import WorkerProcess

if "TAILRACE_TEST_DEVICES" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """Two workers, for all tests of a module."""
    first, second = WorkerProcess(), WorkerProcess()
    yield first, second
    first.close()
    second.close()
