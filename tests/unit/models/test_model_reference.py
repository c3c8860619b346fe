"""The names and paths by which a user names a model, and the errors for unknown ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.errors import ModelError
from tailrace.models.model_reference import ModelFile, locate_model
from tailrace.models.store import Store
from tailrace.settings import STARTER_MODEL


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    with store.workspace() as work:
        (work / "m").write_bytes(b"x")
        store.add("kept", "Kept-Q8.gguf", work / "m")
    return store


def test_a_name_in_the_store(store: Store) -> None:
    assert locate_model("kept", store) == ModelFile(path=store.folder / "kept" / "Kept-Q8.gguf", name="kept")


def test_a_path(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "My Model.Q4.gguf"
    file.write_bytes(b"x")
    expected = ModelFile(path=file, name="My Model.Q4")
    assert locate_model(str(file), store) == expected
    monkeypatch.chdir(tmp_path)
    assert locate_model("My Model.Q4.gguf", store) == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate_model("~/My Model.Q4.gguf", store) == expected


def test_a_missing_path_lists_the_stored_models(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate_model(str(tmp_path / "no.gguf"), store)
    assert f"there is no file {tmp_path / 'no.gguf'}" in str(caught.value)
    assert "In the store: kept" in str(caught.value)


def test_a_file_that_is_no_gguf(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"has to end in \.gguf"):
        locate_model(str(tmp_path / "model.safetensors"), store)


def test_a_folder_is_no_model(store: Store, tmp_path: Path) -> None:
    (tmp_path / "dir.gguf").mkdir()
    with pytest.raises(ModelError, match="there is no file"):
        locate_model(str(tmp_path / "dir.gguf"), store)


def test_a_model_that_can_be_fetched_says_how(store: Store) -> None:
    with pytest.raises(ModelError, match=f"Fetch it with: tailrace pull {STARTER_MODEL}"):
        locate_model(STARTER_MODEL, store)


@pytest.mark.parametrize("model", ["unknown", "../kept", "some/where", "", "."])
def test_an_unknown_model_lists_the_stored_ones(store: Store, model: str) -> None:
    with pytest.raises(ModelError) as caught:
        locate_model(model, store)
    assert "In the store: kept" in str(caught.value)
    assert f"tailrace pull {STARTER_MODEL}" in str(caught.value)


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="The store is empty"):
        locate_model("unknown", Store(tmp_path))
