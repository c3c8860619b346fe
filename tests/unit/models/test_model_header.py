"""The facts of a GGUF header. Each damaged file gives facts or a ModelError and no other exception."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy
import pytest
from gguf import GGUFWriter, LlamaFileType
from hypothesis import given, settings
from hypothesis import strategies as st

from model_files import ARRAY, STRING, UINT32, pair, text, tiny_gguf
from tailrace.errors import ModelError
from tailrace.models.kv_shape import F16_CACHE, KVShape
from tailrace.models.model_header import ModelFacts, read_facts, read_header
from tailrace.models.store import Store
from tailrace.settings import STARTER_MODEL


def facts_of(folder: Path, data: bytes) -> ModelFacts:
    path = folder / "m.gguf"
    path.write_bytes(data)
    return read_facts(path)


def test_the_facts_of_a_file(tmp_path: Path) -> None:
    assert facts_of(tmp_path, tiny_gguf()) == ModelFacts(
        architecture="llama",
        name="Tiny",
        quantisation="Q4_K_M",
        parameters=24,
        context=2048,
        chat_template=False,
        kv=None,
    )


def test_all_values_are_read_except_arrays(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_gguf(extra=(pair("a.flag", 7, b"\1"), pair("a.text", STRING, text("ü")))))
    header = read_header(path)
    assert header.facts == read_facts(path)
    assert header.values == {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.file_type": 15,
        "llama.context_length": 2048,
        "a.flag": True,
        "a.text": "ü",
    }


def test_short_arrays_of_whole_numbers_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = GGUFWriter(path, "a")
    writer.add_array("a.flags", [True, False])
    writer.add_array("a.numbers", [3, -1])
    writer.add_array("a.words", ["x"])
    writer.add_array("a.long", [1] * 513)
    writer.add_array("a.fractions", [0.5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    assert header.layer_values == {"a.flags": (1, 0), "a.numbers": (3, -1)}
    assert header.values == {"general.architecture": "a"}


def test_a_file_of_the_formats_own_library(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = GGUFWriter(path, "gemma3")
    writer.add_context_length(4096)
    writer.add_block_count(3)
    writer.add_embedding_length(640)
    writer.add_head_count(4)
    writer.add_head_count_kv(1)
    writer.add_key_length(256)
    writer.add_value_length(128)
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list(["a", "b"])
    writer.add_array("nested.numbers", [1, 2, 3])
    writer.add_tensor("a", numpy.zeros((3, 5), dtype=numpy.float32))
    writer.add_tensor("b", numpy.zeros(7, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_facts(path) == ModelFacts(
        architecture="gemma3",
        name=None,
        quantisation="BF16",
        parameters=22,
        context=4096,
        chat_template=True,
        kv=KVShape(layers=3, heads=1, key_length=256, value_length=128),
    )


def test_a_hybrid_model_has_a_cache_in_some_layers_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = GGUFWriter(path, "qwen35")
    writer.add_block_count(8)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv([0, 0, 0, 2, 0, 0, 0, 2])
    writer.add_key_length(32)
    for layer in (3, 7):
        writer.add_tensor(f"blk.{layer}.attn_k.weight", numpy.zeros((2 * 32, 64), dtype=numpy.float32))
    for layer in (0, 1, 2, 4, 5, 6):
        writer.add_tensor(f"blk.{layer}.ssm_in.weight", numpy.zeros((64, 64), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shape = read_facts(path).kv
    assert shape is not None
    assert shape.token_bytes(F16_CACHE) == 2 * 2 * (32 + 32) * 2  # layers, heads, keys and values, bytes


def test_the_starter_model() -> None:
    stored = Store().find(STARTER_MODEL)
    assert stored is not None, "fetch it first: tailrace pull"
    facts = read_facts(stored.path)
    assert (facts.architecture, facts.quantisation, facts.context) == ("llama", "Q4_1", 8192)
    assert facts.parameters == 134_515_008
    assert facts.chat_template
    assert facts.kv == KVShape(layers=30, heads=3, key_length=64, value_length=64)


@pytest.mark.parametrize(
    "file_type", [pair("x.y", STRING, text("z")), pair("general.file_type", UINT32, b"\xff\xff\0\0")]
)
def test_an_unknown_file_type_is_no_error(tmp_path: Path, file_type: bytes) -> None:
    data = tiny_gguf(extra=(file_type,))
    expected = None if b"\xff\xff" in file_type else "Q4_K_M"
    assert facts_of(tmp_path, data).quantisation == expected


def nested(depth: int) -> bytes:
    """An array in an array, ``depth`` deep."""
    return struct.pack("<IQ", ARRAY, 1) * (depth - 1) + struct.pack("<IQ", UINT32, 1) + bytes(4)


def test_nested_arrays_are_skipped(tmp_path: Path) -> None:
    assert facts_of(tmp_path, tiny_gguf(extra=(pair("n", ARRAY, nested(3)),))).parameters == 24


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"GG", "doesn't start with GGUF"),
        (b"PK\3\4" + bytes(100), "doesn't start with GGUF"),
        (tiny_gguf(version=1), "version is 1"),
        (tiny_gguf(weights=b""), "before its last tensor"),
        (tiny_gguf(extra=(pair("n", 77, b""),)), "unknown type 77"),
        (tiny_gguf(extra=(pair("n", ARRAY, nested(9)),)), "nested too deep"),
        (tiny_gguf(extra=(pair("n", STRING, struct.pack("<Q", 2**64 - 1)),)), "ends too early"),
        (tiny_gguf(extra=(pair("n", ARRAY, struct.pack("<IQ", UINT32, 2**63)),)), "ends too early"),
        (tiny_gguf(extra=(pair("n", STRING, struct.pack("<Q", 2**24 + 1) + bytes(2**24 + 1)),)), "a text of 16777217"),
        (tiny_gguf(extra=(pair("n", ARRAY, struct.pack("<IQ", STRING, 2**23 + 1)),)), "more than 8388608 elements"),
        (tiny_gguf(extra=(pair("n", ARRAY, struct.pack("<IQ", STRING, 2**22)),)), "ends too early"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0) + bytes(64), "which no model has"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63) + bytes(64), "which no model has"),
        (tiny_gguf(extra=(pair("general.alignment", STRING, text("x")),)), "alignment"),
        (tiny_gguf(extra=(pair("general.architecture", UINT32, bytes(4)),)), "no architecture"),
        (tiny_gguf(extra=(pair("n", STRING, struct.pack("<Q", 1) + b"\xff"),)), "utf-8"),
    ],
)
def test_a_damaged_file_has_an_error_with_the_reason(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(ModelError, match=why) as caught:
        facts_of(tmp_path, data)
    assert "Fetch or copy it again" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be read"):
        read_facts(tmp_path / "nothing.gguf")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match="no regular file"):
        read_facts(tmp_path / "m.gguf")


def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapped file would end the process."""
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_gguf()[:200])
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda descriptor: os.stat_result([*fstat(descriptor)[:6], 9999, 0, 0, 0]))
    with pytest.raises(ModelError, match="shorter meanwhile"):
        read_facts(path)


def test_a_huge_file_of_zeros_is_refused_by_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 1, 60_000))
        file.truncate(10**12)
    with pytest.raises(ModelError, match="a tensor has 0 dimensions"):
        read_facts(path)


@settings(deadline=None)  # How long an example takes on a busy machine says nothing.
@given(st.data())
def test_any_damage_gives_facts_or_a_model_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(tiny_gguf())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.sampled_from([0, 1, 8, 9, 127, 128, 255]))
    cut = data.draw(st.integers(4, len(whole)))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(whole[:cut])
    try:
        facts = read_facts(path)
    except ModelError:
        return
    assert facts.parameters >= 0
