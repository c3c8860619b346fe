"""The store of converted files: a file is found as it was written, and converted again when it has changed."""

from __future__ import annotations

import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import msgspec
import pytest

from model_files import tiny_gguf
from tailrace.errors import ModelError
from tailrace.models.conversion_formats import CONVERSION_FORMATS
from tailrace.models.converted_files import ConvertedFile, ConvertedFiles

Q8 = CONVERSION_FORMATS["Q8_0"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_gguf())
    return path


@pytest.fixture
def store(tmp_path: Path) -> ConvertedFiles:
    return ConvertedFiles(tmp_path / "converted")


def make(store: ConvertedFiles, source: Path, content: bytes = b"converted") -> ConvertedFile:
    with store.reserve_target(source, Q8, lambda: pytest.fail("no other process converts")) as target:
        target.write_bytes(content)
        return store.add(
            source, ConvertedFile(path=target, weight_format=Q8, bytes=len(content), bytes_before=1, seconds=0.5)
        )


def test_a_converted_file_is_found(store: ConvertedFiles, source: Path) -> None:
    assert store.find(source, Q8) is None
    made = make(store, source)
    assert made.path.read_bytes() == b"converted"
    assert store.find(source, Q8) == made
    assert store.find(source, CONVERSION_FORMATS["Q6_K"]) is None


def test_a_copy_of_the_model_finds_the_file_too(store: ConvertedFiles, source: Path, tmp_path: Path) -> None:
    make(store, source)
    copy = tmp_path / "elsewhere" / "tiny.gguf"
    copy.parent.mkdir()
    copy.write_bytes(source.read_bytes())
    assert store.find(copy, Q8) is not None


def test_another_model_of_the_same_name_does_not_find_it(store: ConvertedFiles, source: Path) -> None:
    make(store, source)
    source.write_bytes(tiny_gguf(weights=bytes([1]) * 96))
    assert store.find(source, Q8) is None


@pytest.mark.parametrize("content", [b"conver", b"converted and more"])
def test_a_file_of_another_size_is_converted_again(store: ConvertedFiles, source: Path, content: bytes) -> None:
    make(store, source).path.write_bytes(content)
    assert store.find(source, Q8) is None
    assert make(store, source).path.read_bytes() == b"converted"


def test_a_modified_file_is_converted_again(store: ConvertedFiles, source: Path) -> None:
    path = make(store, source).path
    written = path.stat().st_mtime_ns
    path.write_bytes(b"CONVERTED")
    os.utime(path, ns=(written + 1, written + 1))
    assert store.find(source, Q8) is None


def test_a_damaged_record_counts_as_none(store: ConvertedFiles, source: Path) -> None:
    made = make(store, source)
    (made.path.parent / "facts.json").write_bytes(b'{"mtime_ns": 1}')
    assert store.find(source, Q8) is None


def test_a_name_that_meant_another_format_is_converted_again(store: ConvertedFiles, source: Path) -> None:
    make(store, source)
    assert store.find(source, msgspec.structs.replace(Q8, q8_tensors=("attn_v",))) is None


def test_a_removed_file_is_gone(store: ConvertedFiles, source: Path) -> None:
    made = make(store, source)
    store.remove(source, Q8)
    assert store.find(source, Q8) is None
    assert not made.path.exists()


def test_nothing_is_left_of_a_conversion_that_failed(store: ConvertedFiles, source: Path) -> None:
    places: list[Path] = []

    def fail() -> None:
        with store.reserve_target(source, Q8, lambda: None) as target:
            places.append(target)
            target.write_bytes(b"half")
            raise ModelError("the disk is full")

    with pytest.raises(ModelError, match="disk is full"):
        fail()
    assert not places[0].exists()
    assert store.find(source, Q8) is None


def test_a_full_disk_is_an_error_before_anything_is_written(
    store: ConvertedFiles, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with (
        pytest.raises(ModelError, match=r"GB free\. Make room, or set TAILRACE_MODELS"),
        store.reserve_target(source, Q8, lambda: None),
    ):
        pytest.fail("there was room")


def test_a_second_process_waits_for_the_first_and_finds_its_file(store: ConvertedFiles, source: Path) -> None:
    waits, found = threading.Event(), []

    def second() -> None:
        with store.reserve_target(source, Q8, waits.set):
            found.append(store.find(source, Q8))

    thread = threading.Thread(target=second)
    with store.reserve_target(source, Q8, lambda: None) as target:
        thread.start()
        assert waits.wait(20)
        target.write_bytes(b"converted")
        made = store.add(source, ConvertedFile(path=target, weight_format=Q8, bytes=9, bytes_before=1, seconds=0.5))
    thread.join(20)
    assert found == [made]


def test_a_comparison_that_is_written_later_is_found(store: ConvertedFiles, source: Path) -> None:
    made = make(store, source)
    noted = store.write_record(source, msgspec.structs.replace(made, seconds=2.0))
    assert store.find(source, Q8) == noted
