"""How several models share the memory: the budget, and contexts and caches where none are set."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tailrace.machine.memory_fit import Memory, MemoryDemand
from tailrace.serving import memory_share, model_memory
from tailrace.serving.memory_share import (
    engine_bytes,
    fill_budget,
    keep_mb,
    limited,
    load_bytes,
    memory_budget,
    share_memory,
)
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings

GB = 1_000_000_000
#: A token of 100 kB, and a trained context of 128 k.
DEMAND = MemoryDemand(weights=4 * GB, buffers=GB // 2, bytes_per_token=100_000, context=131_072)


def test_the_budget_is_what_is_set_or_what_the_machine_has_without_a_reserve() -> None:
    memory = Memory(total=32 * GB, available=30 * GB)
    assert memory_budget(Settings(models_mb=2000), memory) == 2 * GB
    assert memory_budget(Settings(), memory) == 30 * GB - 200_000_000 - GB
    assert memory_budget(Settings(), Memory(total=GB, available=100_000_000)) == 0


@pytest.mark.parametrize(("budget", "shared"), [(2 * GB, 62), (16 * GB, 500), (100 * GB, 1024)])
def test_the_prefix_cache_is_a_part_of_the_budget(budget: int, shared: int) -> None:
    assert keep_mb(budget) == shared


def test_a_context_that_is_not_set_is_what_the_share_allows() -> None:
    shared = share_memory(Settings(), DEMAND, 16 * GB)
    # 2 GB are 20,000 tokens, in whole steps of 256.
    assert (shared.ctx, shared.kv_tokens) == (19_968, 19_968)


def test_small_contexts_have_one_for_each_parallel_request() -> None:
    demand = MemoryDemand(weights=GB, buffers=0, bytes_per_token=100_000, context=2048)
    assert share_memory(Settings(parallel=4), demand, 16 * GB).kv_tokens == 4 * 2048


def test_a_context_is_never_smaller_than_a_conversation() -> None:
    shared = share_memory(Settings(), DEMAND, GB // 10)
    assert (shared.ctx, shared.kv_tokens) == (2048, 2048)


@pytest.mark.parametrize(
    ("settings", "ctx", "kv_tokens"),
    [
        (Settings(ctx=50_000), 50_000, 50_000),
        (Settings(kv_tokens=30_000), 30_000, 30_000),
        (Settings(ctx=4096, kv_tokens=8192), 4096, 8192),
        (Settings(ctx=4096, parallel=2), 4096, 8192),
    ],
)
def test_what_is_set_stays(settings: Settings, ctx: int, kv_tokens: int) -> None:
    shared = share_memory(settings, DEMAND, 16 * GB)
    assert (shared.ctx, shared.kv_tokens) == (ctx, kv_tokens)


def test_a_model_whose_tokens_have_no_known_size_is_left_alone() -> None:
    demand = MemoryDemand(weights=GB, buffers=0, bytes_per_token=0, context=8192)
    assert share_memory(Settings(), demand, 16 * GB) == Settings()
    assert engine_bytes(Settings(), demand) == GB


def test_an_engine_may_come_to_take_its_weights_buffers_and_caches() -> None:
    settings = Settings(ctx=1000, kv_tokens=3000, keep_mb=500)
    assert engine_bytes(settings, DEMAND) == 4 * GB + GB // 2 + 300_000_000 + 500_000_000


def test_a_file_that_can_not_be_read_takes_an_engine_without_a_model(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF")
    for file in (str(path), str(tmp_path / "gone.gguf")):
        assert load_bytes(ModelSpec(name="m", path=file, settings=Settings()), 16 * GB) == model_memory.ENGINE


@pytest.mark.parametrize(
    ("settings", "gpu", "fits"),
    [
        (Settings(), False, False),
        (Settings(devices="local"), False, False),
        (Settings(devices="local,10.0.0.2"), False, True),
        (Settings(speculate="draft", draft_devices="10.0.0.2"), False, False),
        (Settings(), True, True),
        (Settings(gpu_layers=0), True, False),
    ],
)
def test_a_larger_model_takes_the_budget_where_a_device_may_have_a_part(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, gpu: bool, fits: bool
) -> None:
    """Otherwise it needs more than there is, and is refused with the numbers."""
    monkeypatch.setattr(memory_share, "engine_demand", lambda path, settings: DEMAND)
    monkeypatch.setattr(memory_share, "offloads", lambda gpus, backends: gpu)
    spec = ModelSpec(name="m", path="m.gguf", settings=settings)
    budget = 3 * GB
    everything = engine_bytes(share_memory(settings, DEMAND, budget), DEMAND)
    assert load_bytes(spec, budget) == (budget if fits else everything)
    assert load_bytes(spec, 100 * GB) == engine_bytes(share_memory(settings, DEMAND, 100 * GB), DEMAND)


def test_a_scripted_model_takes_what_its_test_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_FAKE_WEIGHTS_MB", "small=10,large=500")
    taken = [
        load_bytes(ModelSpec(name=name, path=None, settings=Settings(model=name)), GB) - model_memory.ENGINE
        for name in ("small", "large", "other")
    ]
    assert taken == [10_000_000, 500_000_000, 0]


def test_only_model_fills_its_budget_with_contexts() -> None:
    demand = MemoryDemand(weights=100_000_000, buffers=50_000_000, bytes_per_token=1000, context=4096)
    settings = Settings(models_mb=400, keep_mb=100, parallel=8)

    assert fill_budget(settings, demand).kv_tokens == 8 * 4096
    assert fill_budget(msgspec.structs.replace(settings, models_mb=260), demand).kv_tokens == 9984
    assert fill_budget(msgspec.structs.replace(settings, models_mb=251), demand).kv_tokens == 4096, "one whole context"
    assert fill_budget(msgspec.structs.replace(settings, kv_tokens=5000), demand).kv_tokens == 5000
    assert fill_budget(Settings(), demand) == Settings(), "without a limit the engine decides"


def test_only_model_is_limited_by_its_budget_alone_where_that_is_less() -> None:
    memory = Memory(total=10_000_000_000, available=6_000_000_000)

    assert limited(memory, Settings()) is memory
    assert limited(memory, Settings(models_mb=20_000)) is memory
    part = limited(memory, Settings(models_mb=2_000))
    assert (part.total, part.available) == (2_000_000_000, 2_000_000_000)
    assert "models_mb" in part.where
