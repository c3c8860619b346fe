"""The local store: names can't lead out of it, and files are moved into it atomically."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tailrace.errors import ModelError
from tailrace.models.store import Store, StoredModel, default_folder, is_name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def put(store: Store, name: str, file: str = "m.gguf", data: bytes = b"x") -> StoredModel:
    with store.workspace() as work:
        source = work / "source"
        source.write_bytes(data)
        return store.add(name, file, source)


def test_a_store_without_a_folder_is_empty(store: Store) -> None:
    assert store.models() == []
    assert store.find("tiny") is None
    assert not store.folder.exists()


def test_added_models_are_found_and_listed_by_name(store: Store) -> None:
    b = put(store, "b", data=b"12345")
    a = put(store, "a")
    assert b == StoredModel(name="b", path=store.folder / "b" / "m.gguf", bytes=5)
    assert store.find("b") == b
    assert store.models() == [a, b]
    assert b.path.read_bytes() == b"12345"


def test_adding_again_replaces_the_file(store: Store) -> None:
    put(store, "a", data=b"old")
    assert put(store, "a", data=b"newer").bytes == 5
    assert [model.bytes for model in store.models()] == [5]


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "a\\b", "a\n", "ü", "a" * 129])
def test_names_that_lead_out_of_the_store_are_refused(store: Store, name: str) -> None:
    assert not is_name(name)
    with pytest.raises(ModelError, match="can't be a model's name"):
        store.find(name)
    with pytest.raises(ModelError, match="can't be a model's name"):
        store.target(name, "m.gguf")


@pytest.mark.parametrize("file", ["../m.gguf", "m.bin", ".m.gguf", "a/m.gguf", ""])
def test_files_that_lead_out_of_the_store_are_refused(store: Store, file: str) -> None:
    with pytest.raises(ModelError, match="can't be a model's file"):
        store.target("a", file)


def test_an_unfinished_workspace_looks_like_no_model_and_goes_away(store: Store) -> None:
    with store.workspace() as work:
        (work / "m.gguf").write_bytes(b"half")
        assert work.parent == store.folder
        assert store.models() == []
    assert list(store.folder.iterdir()) == []


def test_a_workspace_that_a_killed_process_has_left_is_deleted_by_the_next_one(store: Store) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from tailrace.models.store import Store\n"
        "with Store(pathlib.Path(sys.argv[1])).workspace() as work:\n"
        "    (work / 'part').write_bytes(b'x')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(store.folder)], check=False)
    assert len(list(store.folder.iterdir())) == 1
    with store.workspace() as first, store.workspace() as second:
        assert sorted(store.folder.iterdir()) == sorted([first, second]), "one that is in use stays"
    assert list(store.folder.iterdir()) == []


def test_folders_without_a_model_are_passed_over(store: Store) -> None:
    put(store, "a")
    (store.folder / "empty").mkdir()
    (store.folder / "a" / ".half.gguf").write_bytes(b"")
    (store.folder / "note.gguf").write_bytes(b"a file, not a folder")
    assert [model.name for model in store.models()] == ["a"]


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file" / "models")
    with pytest.raises(ModelError, match="TAILRACE_MODELS"), store.workspace():
        pass


def test_a_source_that_is_gone_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be written"):
        store.add("a", "m.gguf", tmp_path / "nothing")


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAILRACE_MODELS", str(tmp_path / "here"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_folder() == tmp_path / "here"
    monkeypatch.delenv("TAILRACE_MODELS")
    assert default_folder() == tmp_path / "cache" / "tailrace" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "tailrace" / "models"


def test_a_removed_model_is_gone(store: Store) -> None:
    put(store, "a")
    put(store, "b")
    assert store.remove("a")
    assert not store.remove("a")
    assert [model.name for model in store.models()] == ["b"]
    assert not (store.folder / "a").exists()


def test_removing_leaves_other_files(store: Store, tmp_path: Path) -> None:
    folder = put(store, "a").path.parent
    (folder / "notes.txt").write_text("mine")
    (folder / ".m.gguf").write_text("another process writes this")
    assert store.remove("a")
    assert sorted(path.name for path in folder.iterdir()) == [".m.gguf", "notes.txt"]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "m.gguf").write_bytes(b"x")
    (store.folder / "link").symlink_to(outside)
    with pytest.raises(ModelError, match="leads out of the store"):
        store.remove("link")
    put(store, "file").path.unlink()
    (store.folder / "file" / "m.gguf").symlink_to(outside / "m.gguf")
    assert store.remove("file"), "the link alone goes"
    assert (outside / "m.gguf").read_bytes() == b"x"
    with pytest.raises(ModelError, match="can't be a model's name"):
        store.remove("../outside")
