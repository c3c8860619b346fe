"""The results that tests with real clients gather."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client_results import Results


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    """What is proven in this run."""
    gathered = Results()
    yield gathered
    gathered.write()
