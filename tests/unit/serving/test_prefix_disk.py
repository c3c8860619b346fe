"""How much disk the prefix states of a model get where the settings leave it open."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tailrace.serving.model_spec import ModelSpec
from tailrace.serving.prefix_disk import with_disk_share
from tailrace.settings import Settings


def share(models: int, *, on_demand: bool = False, **settings: float) -> int:
    spec = ModelSpec(name="m", path=None, settings=Settings(**settings))  # type: ignore[arg-type]  # Only numbers.
    return with_disk_share(spec, models, Path("/nowhere/at/all"), on_demand=on_demand).settings.keep_disk_mb


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 40_000_000_000}))


def test_only_a_model_that_is_unloaded_gets_disk_by_default() -> None:
    assert share(1) == 0
    assert share(1, idle_seconds=60) == 4000, "a tenth of the free disk"
    assert share(1, on_demand=True) == 4000
    assert share(4, on_demand=True) == 1000
    assert share(1000, on_demand=True) == 64


def test_a_number_that_is_set_holds() -> None:
    assert share(4, on_demand=True, keep_disk_mb=0) == 0
    assert share(1, keep_disk_mb=7) == 7
