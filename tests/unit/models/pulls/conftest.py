"""The fixture of all tests of pulls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from local_pulls import LocalPulls, local_pulls


@pytest.fixture
def pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalPulls]:
    """A hub, a registry and a storage, and pulls from them in this process."""
    with local_pulls(tmp_path, monkeypatch) as made:
        yield made
