"""Models on real workers, on loopback: collected by ``make test-devices`` alone, because they take minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, Settings
from worker_process import WorkerProcess

if TYPE_CHECKING:
    from tailrace.engine.backends.llama import LlamaBackend

if "TAILRACE_TEST_DEVICES" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """Two workers, for all tests of a module."""
    first, second = WorkerProcess(), WorkerProcess()
    yield first, second
    first.close()
    second.close()


@pytest.fixture(scope="module")
def alone() -> Iterator[LlamaBackend]:
    """The starter model in this process alone, which reads the replies of the others back."""
    # Tests without a model collect this folder, too, and load no llama.cpp.
    from tailrace.engine.backends.create_llama import create_llama

    backend = create_llama(locate_model(STARTER_MODEL).path, Settings(threads=2, ctx=1024, parallel=4))
    yield backend
    backend.close()
