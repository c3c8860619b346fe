"""Settings of all test processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from postgres_server import PostgresServer, postgres_server

# NumPy reads it once. Its products in tests are small, and threads that wait for each other take five times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# No test is timed: an example may take long on a busy machine. Hypothesis has such a profile for CI by itself.
hypothesis.settings.register_profile("untimed", deadline=None)
if "CI" not in os.environ:
    hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """PostgreSQL, for all tests that store something there. A test takes a database of its own."""
    with postgres_server() as server:
        yield server
