"""The converted files that are kept: found as they were written, made anew when they weren't."""

from __future__ import annotations

import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import msgspec
import pytest

from model_files import tiny_gguf
from tailrace.errors import ConfigurationError, ModelError
from tailrace.models.converted_files import ConvertedFile, ConvertedFiles
from tailrace.models.fingerprint import fingerprint
from tailrace.models.weight_formats import WEIGHT_FORMATS, find_weight_format

Q8 = WEIGHT_FORMATS["Q8_0"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_gguf())
    return path


@pytest.fixture
def kept(tmp_path: Path) -> ConvertedFiles:
    return ConvertedFiles(tmp_path / "kept")


def make(kept: ConvertedFiles, source: Path, content: bytes = b"converted") -> ConvertedFile:
    with kept.reserve_target(source, Q8, lambda: pytest.fail("nobody else converts")) as target:
        target.write_bytes(content)
        return kept.add(
            source, ConvertedFile(path=target, weight_format=Q8, bytes=len(content), bytes_before=1, seconds=0.5)
        )


def test_what_was_made_is_found(kept: ConvertedFiles, source: Path) -> None:
    assert kept.find(source, Q8) is None
    made = make(kept, source)
    assert made.path.read_bytes() == b"converted"
    assert kept.find(source, Q8) == made
    assert kept.find(source, WEIGHT_FORMATS["Q6_K"]) is None


def test_a_copy_of_the_model_finds_it_too(kept: ConvertedFiles, source: Path, tmp_path: Path) -> None:
    make(kept, source)
    copy = tmp_path / "elsewhere" / "tiny.gguf"
    copy.parent.mkdir()
    copy.write_bytes(source.read_bytes())
    assert kept.find(copy, Q8) is not None


def test_another_model_under_the_same_name_does_not(kept: ConvertedFiles, source: Path) -> None:
    make(kept, source)
    source.write_bytes(tiny_gguf(weights=bytes([1]) * 96))
    assert kept.find(source, Q8) is None


@pytest.mark.parametrize("content", [b"conver", b"converted and more"])
def test_a_file_of_another_size_is_made_anew(kept: ConvertedFiles, source: Path, content: bytes) -> None:
    make(kept, source).path.write_bytes(content)
    assert kept.find(source, Q8) is None
    assert make(kept, source).path.read_bytes() == b"converted"


def test_a_file_that_was_written_to_is_made_anew(kept: ConvertedFiles, source: Path) -> None:
    path = make(kept, source).path
    written = path.stat().st_mtime_ns
    path.write_bytes(b"CONVERTED")
    os.utime(path, ns=(written + 1, written + 1))
    assert kept.find(source, Q8) is None


def test_broken_record_is_as_good_as_none(kept: ConvertedFiles, source: Path) -> None:
    made = make(kept, source)
    (made.path.parent / "facts.json").write_bytes(b'{"mtime_ns": 1}')
    assert kept.find(source, Q8) is None


def test_a_name_that_meant_another_format_is_made_anew(kept: ConvertedFiles, source: Path) -> None:
    make(kept, source)
    assert kept.find(source, msgspec.structs.replace(Q8, q8_tensors=("attn_v",))) is None


def test_what_is_removed_is_gone(kept: ConvertedFiles, source: Path) -> None:
    made = make(kept, source)
    kept.remove(source, Q8)
    assert kept.find(source, Q8) is None
    assert not made.path.exists()


def test_nothing_is_left_of_a_conversion_that_failed(kept: ConvertedFiles, source: Path) -> None:
    places: list[Path] = []

    def fail() -> None:
        with kept.reserve_target(source, Q8, lambda: None) as target:
            places.append(target)
            target.write_bytes(b"half")
            raise ModelError("the disk is full")

    with pytest.raises(ModelError, match="disk is full"):
        fail()
    assert not places[0].exists()
    assert kept.find(source, Q8) is None


def test_a_full_disk_is_told_before_anything_is_written(
    kept: ConvertedFiles, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with (
        pytest.raises(ModelError, match=r"GB free\. Make room, or set TAILRACE_MODELS"),
        kept.reserve_target(source, Q8, lambda: None),
    ):
        pytest.fail("there was room")


def test_the_second_who_wants_the_same_waits_and_finds_it(kept: ConvertedFiles, source: Path) -> None:
    waits, found = threading.Event(), []

    def second() -> None:
        with kept.reserve_target(source, Q8, waits.set):
            found.append(kept.find(source, Q8))

    thread = threading.Thread(target=second)
    with kept.reserve_target(source, Q8, lambda: None) as target:
        thread.start()
        assert waits.wait(20)
        target.write_bytes(b"converted")
        made = kept.add(source, ConvertedFile(path=target, weight_format=Q8, bytes=9, bytes_before=1, seconds=0.5))
    thread.join(20)
    assert found == [made]


def test_comparison_that_is_added_later_is_found(kept: ConvertedFiles, source: Path) -> None:
    made = make(kept, source)
    noted = kept.write_record(source, msgspec.structs.replace(made, seconds=2.0))
    assert kept.find(source, Q8) == noted


def test_a_fingerprint_sees_every_part_and_reads_little(tmp_path: Path) -> None:
    path = tmp_path / "large"
    content = bytearray(16 * 1024 * 1024)
    path.write_bytes(content)
    first = fingerprint(path)
    for place in (0, len(content) // 63 * 20, len(content) - 1):
        changed = bytearray(content)
        changed[place] = 1
        path.write_bytes(changed)
        assert fingerprint(path) != first
    path.write_bytes(content + b"\0")
    assert fingerprint(path) != first


def test_recipes_are_found_in_any_letters_and_the_others_named() -> None:
    assert find_weight_format("q4_k_m") is WEIGHT_FORMATS["Q4_K_M"]
    with pytest.raises(ConfigurationError, match="near-lossless, fast or one of Q4_0, "):
        find_weight_format("Q9")
