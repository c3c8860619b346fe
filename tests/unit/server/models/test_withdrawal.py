"""Which served models clients may delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import Forbidden
from tailrace.server.app_state import AppState
from tailrace.server.models.supervisor_link import SupervisorLink
from tailrace.server.models.withdrawal import check_removable
from tailrace.serving.control import control_channel
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings


def check(store: Path, *others: ModelSpec, **settings: Any) -> None:
    """Whether the model ``a`` of the store can be deleted beside others, the first of which is the default."""
    own = spec("a", store / "a" / "a.gguf", **settings)
    server, supervisor = control_channel()
    with server, supervisor:
        app = AppState(Settings(), [*others, own], orders=SupervisorLink(server), memory=10**9)
        check_removable(app, app.models.service("a"), store)


def spec(name: str, path: Path, **settings: Any) -> ModelSpec:
    return ModelSpec(name=name, path=str(path), settings=Settings(**settings))


def test_a_model_of_its_own(tmp_path: Path) -> None:
    check(tmp_path, spec("b", tmp_path / "b" / "b.gguf"))


def test_the_default_model_and_pinned_ones_stay(tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="while it is served"):
        check(tmp_path)
    with pytest.raises(Forbidden, match="while it is served"):
        check(tmp_path, spec("b", tmp_path / "b" / "b.gguf"), pinned=True)


def test_a_file_that_another_served_model_needs_stays(tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="'twin' needs the file of 'a'"):
        check(tmp_path, spec("twin", tmp_path / "a" / "a.gguf"))
    with pytest.raises(Forbidden, match="'large' needs the file of 'a'"):
        check(tmp_path, spec("large", tmp_path / "b" / "b.gguf", draft_model=str(tmp_path / "a" / "a.gguf")))
