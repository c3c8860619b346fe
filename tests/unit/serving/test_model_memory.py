"""The memory that a model's header says it takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_files import tiny_gguf
from tailrace.models import model_header
from tailrace.models.gguf_file import Tensor
from tailrace.models.kv_shape import F16_CACHE, CacheTypes, KVShape
from tailrace.models.model_header import ModelFacts, ModelHeader
from tailrace.serving import model_memory
from tailrace.serving.model_memory import memory_demand, model_needs
from tailrace.settings import Settings


def demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, types: CacheTypes = F16_CACHE, **changed: int
) -> tuple[int, int, int]:
    """Weights, buffers and bytes a token of a file of 1 MB with this header."""
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(1_000_000))
    facts = ModelFacts(
        architecture="llama",
        name=None,
        quantisation=None,
        parameters=1,
        context=8192,
        chat_template=False,
        kv=KVShape(30, changed.get("kv_heads", 3), 64, 64),
    )
    tensors = (Tensor("token_embd.weight", 0, (576, changed.get("vocabulary", 49_152))),)
    values: dict[str, model_header.Value] = {"llama.feed_forward_length": changed.get("inner", 1536)}
    header = ModelHeader(facts=facts, values=values, tensors=tensors)
    monkeypatch.setattr("tailrace.serving.model_memory.read_header", lambda path, overrides: header)
    found = memory_demand(path, Settings(cache_type_k=types.k, cache_type_v=types.v))
    return found.weights, found.buffers, found.bytes_per_token


def test_the_buffers_are_the_logits_of_a_pass_and_some_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, buffers, each = demand(tmp_path, monkeypatch)
    assert (weights, each) == (1_000_000, 23_040)
    # 520 rows of logits, and eight vectors of each width for each of 512 tokens.
    assert buffers == 200_000_000 + 4 * (520 * 49_152 + 512 * 8 * (576 + 1536))


def test_a_quantised_cache_takes_less_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, each = demand(tmp_path, monkeypatch, CacheTypes("q8_0", "q4_0"))
    assert each == 30 * 3 * (68 + 36)


@pytest.mark.parametrize("changed", [{"kv_heads": 1 << 30}, {"vocabulary": 1 << 62}, {"inner": 1 << 31}, {"inner": -5}])
def test_a_size_that_no_model_has_is_left_to_llama_cpp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int]
) -> None:
    _, buffers, each = demand(tmp_path, monkeypatch, F16_CACHE, **changed)
    assert 200_000_000 <= buffers <= 340_000_000
    assert each in (0, 23_040)


def test_a_header_is_read_once_until_its_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(1_000_000))
    facts = ModelFacts(
        architecture="llama", name=None, quantisation=None, parameters=1, context=1, chat_template=False, kv=None
    )
    header = ModelHeader(facts=facts, values={}, tensors=())
    reads: list[tuple[str, ...]] = []

    def read(path: Path, overrides: tuple[str, ...]) -> ModelHeader:
        reads.append(overrides)
        return header

    monkeypatch.setattr(model_memory, "read_header", read)
    os.utime(path, ns=(1, 1))
    for _ in range(3):
        memory_demand(path, Settings())
        model_needs(path, Settings())
    assert reads == [()]
    memory_demand(path, Settings(override_kv=("a=int:1",)))
    assert reads == [(), ("a=int:1",)]
    os.utime(path, ns=(2, 2))
    memory_demand(path, Settings())
    assert len(reads) == 3
    path.write_bytes(bytes(2_000_000))
    os.utime(path, ns=(2, 2))
    assert memory_demand(path, Settings()).weights == 2_000_000
    assert len(reads) == 4


def test_an_override_of_the_context_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_gguf())
    found = memory_demand(path, Settings(override_kv=("llama.context_length=int:777",)))
    assert found.context == 777
