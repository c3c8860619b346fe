"""A machine with a GPU of its own: the planner divides a model also where ``devices`` isn't set."""

from __future__ import annotations

import pytest

from placed_backend import free_status
from tailrace.engine.backends.llama import LlamaBackend, devices
from tailrace.engine.load import load_llama
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, Settings
from worker_process import WorkerProcess

Workers = tuple[WorkerProcess, WorkerProcess]

LAYERS, HERE = 30, 18


@pytest.fixture
def gpu(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> str:
    """The first worker's device in the place of this machine's GPU; its name."""
    free_status(workers[0].endpoint)
    (handle,) = devices.worker_devices(workers[0].endpoint)
    monkeypatch.setattr(devices, "local_gpus", lambda: [handle])
    return devices.device_name(handle)


@pytest.mark.parametrize("remembered", [False, True])
def test_rules_need_no_devices(gpu: str, remembered: bool) -> None:
    rules = {"layers": {f"0-{HERE - 1}": "local", f"{HERE}-{LAYERS - 1}": gpu}, "remembered": remembered}
    backend = load_llama(
        locate_model(STARTER_MODEL).path, Settings(threads=1, ctx=512, parallel=2, placement=rules), shows_bar=False
    )
    try:
        check_layers(backend, [HERE, LAYERS - HERE])
    finally:
        backend.close()


def test_a_number_of_layers_is_planned(gpu: str) -> None:
    settings = Settings(threads=1, ctx=512, parallel=2, gpu_layers=LAYERS - HERE)
    backend = load_llama(locate_model(STARTER_MODEL).path, settings, shows_bar=False)
    try:
        check_layers(backend, [HERE, LAYERS - HERE])
        assert backend.speed_watch is not None
    finally:
        backend.close()


def check_layers(backend: LlamaBackend, layers: list[int]) -> None:
    assert backend.placement is not None
    assert backend.placement.differences == ()
    assert [each.layers for each in backend.placement.devices] == layers
