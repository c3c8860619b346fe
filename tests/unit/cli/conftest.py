"""Commands that run in the tests' process configure its log. The next test has the default one again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def default_log() -> Iterator[None]:
    """Forget a command's configuration of the log."""
    yield
    structlog.reset_defaults()
