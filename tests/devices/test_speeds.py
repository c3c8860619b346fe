"""Speeds of real workers: reported, predicted from, and what ``tailrace tune`` remembers of placements."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from architectures import tiny_experts
from placed_backend import free_status, load_placed
from tailrace.errors import ConfigurationError
from tailrace.settings import Settings
from tailrace.tuning.placement_neighbours import neighbours
from tailrace.tuning.placement_search import search_placements
from tailrace.tuning.probe import Probe
from worker_process import WorkerProcess

Workers = tuple[WorkerProcess, WorkerProcess]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small mixture of experts."""
    return tiny_experts(tmp_path_factory.mktemp("model"), dense="Q8_0", experts="Q4_0")


def test_a_worker_has_measured_its_device(workers: Workers) -> None:
    (device,) = free_status(workers[0].endpoint).devices
    assert device.speed is not None
    assert {"Q4_0", "Q8_0", "Q4_K", "F16"} <= device.speed.products.keys()
    assert "GB/s" in workers[0].log


@pytest.mark.parametrize("placement", [{}, {"tensors": {"_exps": "local"}}, {"output": "local"}])
def test_a_placement_has_a_prediction(workers: Workers, model: Path, placement: dict[str, object]) -> None:
    backend = load_placed([workers[0].endpoint], model=model, local=False, placement=placement)
    try:
        assert backend.speed_watch is not None
        found = backend.speed_watch.figures
        assert found.predicted_decode > 0
        assert found.predicted_prompt > 0
        assert found.decode == 0
    finally:
        backend.close()


def test_remembered_rules_count_as_long_as_they_can_be_followed(workers: Workers, model: Path) -> None:
    endpoint = workers[0].endpoint
    with structlog.testing.capture_logs() as lines:
        followed = load_placed([endpoint], model=model, placement={"output": endpoint, "remembered": True})
        followed.close()
        with pytest.raises(ConfigurationError):
            load_placed([endpoint], model=model, placement={"output": "gone:1"})
        passed_over = load_placed([endpoint], model=model, placement={"output": "gone:1", "remembered": True})
        passed_over.close()
    events = [line["event"] for line in lines if "tailrace tune" in line["event"]]
    assert events == [
        "the placement is the one that tailrace tune remembers",
        "the placement that tailrace tune remembers is passed over",
    ]


def test_neighbours_of_a_plan_are_measured_one_after_the_other(workers: Workers, model: Path) -> None:
    devices = ",".join(["local", *(worker.endpoint for worker in workers)])
    settings = Settings(devices=devices, threads=1, ctx=1024, parallel=2)
    with Probe(model, settings) as probe:
        plan = probe.placement()
    assert plan.names == ("local", *(worker.endpoint for worker in workers))
    _, rows = search_placements(model, settings, quick=True, report=lambda _, __: None)
    assert {row.value for row in rows} == {plan.label, *(each.label for each in neighbours(plan))}
    assert all(row.figures for row in rows), [row.why for row in rows]
    assert sum(row.chosen for row in rows) == 1
