"""The files of tensors that a worker was sent."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tailrace.worker.tensor_cache import TensorCache


def write(folder: Path, number: int, size: int, age: float) -> Path:
    path = folder / f"{number:016x}"
    path.write_bytes(bytes(size))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".json"}


def test_files_that_were_written_whole_outlive_the_worker(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, 1000)
    whole, fresh = write(tmp_path, 1, 100, age=60), write(tmp_path, 2, 100, age=0)
    cache.tend()
    TensorCache(tmp_path, 1000)
    assert whole.exists()
    assert not fresh.exists(), "the worker may have ended while it was written"


def test_a_file_that_has_changed_its_size_is_deleted_at_the_start(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, 1000)
    path = write(tmp_path, 1, 100, age=60)
    cache.tend()
    path.write_bytes(bytes(50))
    TensorCache(tmp_path, 1000)
    assert not path.exists()


def test_the_least_recently_used_files_go_first(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, 250)
    for number, age in ((1, 300), (2, 100), (3, 200)):
        write(tmp_path, number, 100, age)
    cache.tend()
    assert names(tmp_path) == {f"{number:016x}" for number in (2, 3)}


@pytest.mark.parametrize("damage", ["[", "[" * 100_000, "[1]", '{"0000000000000007": [10]}'], ids=len)
def test_other_files_and_a_damaged_list_do_no_harm(tmp_path: Path, damage: str) -> None:
    (tmp_path / "whole-files.json").write_text(damage, encoding="utf-8")
    other = tmp_path / "notes.txt"
    other.write_bytes(bytes(5000))
    stray = write(tmp_path, 7, 10, age=60)
    TensorCache(tmp_path, 100)
    assert other.exists()
    assert not stray.exists()
    assert tmp_path.stat().st_mode & 0o077 == 0


def test_what_was_written_while_the_disk_ran_full_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp doesn't notice that a write failed, and would load the cut-off file later."""
    cache = TensorCache(tmp_path, 1000)
    whole = write(tmp_path, 1, 100, age=60)
    cache.tend()
    cut = write(tmp_path, 2, 30, age=60)
    monkeypatch.setattr("tailrace.worker.tensor_cache.shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    cache.tend()
    assert whole.exists()
    assert not cut.exists()


def test_two_workers_share_a_folder(tmp_path: Path) -> None:
    first = TensorCache(tmp_path, 1000)
    shared = write(tmp_path, 1, 100, age=60)
    first.tend()
    second = TensorCache(tmp_path, 1000)
    assert shared.exists()
    shared.unlink()
    second.tend()
    first.tend()


def test_what_llama_cpp_would_follow_or_wait_for_is_deleted(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(100))
    folder = tmp_path / "cache"
    folder.mkdir()
    link, fifo = folder / f"{1:016x}", folder / f"{2:016x}"
    link.symlink_to(outside)
    os.mkfifo(fifo)
    cache = TensorCache(folder, 1000)
    assert not link.is_symlink()
    assert not fifo.exists()
    link.symlink_to(outside)
    os.utime(link, (0, 0), follow_symlinks=False)
    cache.tend()
    TensorCache(folder, 1000)
    assert not link.is_symlink(), "a link never counts as written"
    assert outside.exists()


def test_a_folder_may_be_a_link_but_not_another_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir(mode=0o777)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    TensorCache(tmp_path / "link", 1000)
    assert (tmp_path / "disk").stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="another user"):
        TensorCache(tmp_path / "link", 1000)
