"""Settings of all test processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from postgres_server import PostgresServer, postgres_server

# NumPy reads it once. Its products in tests are small, and threads that wait for each other take five times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """PostgreSQL, for all tests that store something there. A test takes a database of its own."""
    with postgres_server() as server:
        yield server
