"""Which states a loaded model finds again: those that mean the same to it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.state_identity import prefix_identity, state_identity
from tailrace.settings import Settings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"weights")
    return path


def identity(model: Path, *, fixed: bool = False, cells: int = 512, **settings: object) -> str:
    backend = FakeBackend(ctx=512, parallel=1, kv_tokens=512, batch=64)
    backend.layout_policy = replace(backend.layout_policy, fixed=fixed, max_cells=cells)
    return state_identity(model, Settings(**settings), backend)  # type: ignore[arg-type]  # Whatever the test sets.


def test_settings_of_speed_and_memory_share_states_and_those_of_arithmetic_do_not(model: Path) -> None:
    usual = identity(model)
    assert identity(model, ctx=256, threads=1, keep_mb=1, pinned=True, chat_template="x", parallel=2) == usual
    others = [identity(model, weights="fast"), identity(model, rope_freq_base=5e5), identity(model, rope_scale=2.0)]
    assert len({usual, *others}) == 4


def test_a_changed_file_has_other_states(model: Path) -> None:
    before = identity(model)
    os.utime(model, (1, 1))
    assert identity(model) != before


def test_the_context_counts_where_positions_depend_on_it(model: Path) -> None:
    assert identity(model, cells=256) == identity(model, cells=512)
    assert identity(model, cells=256, fixed=True) != identity(model, cells=512, fixed=True)


def prefixes(model: Path | None, **settings: object) -> str:
    backend = FakeBackend(ctx=512, parallel=1, kv_tokens=512, batch=64)
    return prefix_identity(model, Settings(**settings), backend)  # type: ignore[arg-type]  # Whatever the test sets.


def test_copies_of_a_file_name_prefixes_alike_and_other_weights_do_not(tmp_path: Path) -> None:
    weights = bytes(range(256)) * 20_000
    files = [tmp_path / "here" / "one.gguf", tmp_path / "there" / "two.gguf", tmp_path / "other.gguf"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(weights)
    os.utime(files[1], (1, 1))
    assert prefixes(files[0]) == prefixes(files[1])
    # Fine-tuned weights differ throughout the file, and have the same size and header.
    files[2].write_bytes(weights[:1_200_000] + bytes(reversed(weights[1_200_000:])))
    assert prefixes(files[2]) != prefixes(files[0])


def test_prefixes_differ_by_the_cache_s_types_and_not_by_the_machine(model: Path) -> None:
    assert prefixes(model, cache_type_k="q8_0") != prefixes(model)
    assert prefixes(model, threads=3, keep_mb=1, parallel=2, kv_tokens=99) == prefixes(model)
    assert prefixes(None) == prefixes(None)
