"""One load's plan: a model's share of the budget, and what is free when it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_files import tiny_gguf
from tailrace.errors import ConfigurationError
from tailrace.machine.memory_fit import Memory, MemoryDemand
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings
from tailrace.supervisor import model_plan
from tailrace.supervisor.model_plan import plan_model

GB = 1_000_000_000
DEMAND = MemoryDemand(weights=2 * GB, buffers=GB // 2, bytes_per_token=100_000, context=131_072)


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model of 2 GB whose tokens take 100 kB each."""
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_gguf())
    monkeypatch.setattr(model_plan, "engine_demand", lambda path, settings: DEMAND)
    monkeypatch.setattr(model_plan, "offloads", lambda gpus, backends: False)
    free(monkeypatch, 30)
    return ModelSpec(name="m", path=str(path), settings=Settings(keep_mb=100, replicas=1, pin="off"))


def free(monkeypatch: pytest.MonkeyPatch, gigabytes: int) -> None:
    monkeypatch.setattr(model_plan, "read_memory", lambda: Memory(total=32 * GB, available=gigabytes * GB))


def test_a_model_has_its_share_of_the_budget(spec: ModelSpec) -> None:
    planned = plan_model(spec, 16 * GB)
    assert (planned.spec.settings.ctx, planned.spec.settings.kv_tokens) == (19_968, 19_968)
    assert planned.bytes == 2 * GB + GB // 2 + 19_968 * 100_000 + 100_000_000


def test_a_context_is_reduced_to_what_is_free_now(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 3)
    planned = plan_model(spec, 16 * GB)
    # 0.9 of the 500 MB beside weights and buffers, in whole steps.
    assert (planned.spec.settings.ctx, planned.spec.settings.kv_tokens) == (4352, 4352)


def test_a_model_that_does_not_fit_now_is_refused_with_the_numbers(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 0)
    with pytest.raises(ConfigurationError, match="the model doesn't fit into memory"):
        plan_model(spec, 16 * GB)


def test_a_file_that_can_not_be_read_is_left_to_its_engine(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    spec = ModelSpec(name="m", path=str(broken), settings=Settings(ctx=777))
    assert plan_model(spec, 16 * GB).spec == spec
