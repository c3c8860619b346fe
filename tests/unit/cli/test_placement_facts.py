"""The placement that ``doctor`` shows: from the settings' devices, and what is known of them without loading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tailrace.cli.placement_facts import PlacementFacts, placement_facts
from tailrace.errors import ConfigurationError
from tailrace.machine.gpu import Gpu
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, Settings
from tailrace.worker_protocol.status import PROTOCOL
from worker_reporter import STATUS, WorkerReporter

_GPU = Gpu(vendor="NVIDIA", name=None, address="0000:01:00.0", memory=24 * 10**9, node=None, backends=("cuda",))


def facts(
    gpus: list[Gpu], bandwidth: float | None = 40e9, free: dict[str, int] | None = None, **settings: object
) -> PlacementFacts | None:
    path = locate_model(STARTER_MODEL).path
    return placement_facts(path, msgspec.convert(settings, Settings), gpus, bandwidth, free or {})


def test_without_devices_the_planner_divides_between_this_machine_and_its_gpu() -> None:
    found = facts([_GPU])
    assert found is not None
    assert [device.name for device in found.devices] == ["local", "CUDA0"]
    assert found.devices[1].layers > 0


@pytest.mark.parametrize(
    "settings", [{"gpu_layers": 0}, {"tensor_split": "3,1"}, {"split_mode": "row"}, {"main_gpu": 1}]
)
def test_settings_that_divide_the_model_leave_it_to_llama_cpp(settings: dict[str, Any]) -> None:
    assert facts([_GPU], **settings) is None
    assert facts([]) is None


def test_the_drivers_free_memory_counts_and_a_silent_gpu_is_left_out() -> None:
    silent = msgspec.structs.replace(_GPU, memory=None)
    found = facts([silent], free={_GPU.address: 8 * 10**9})
    assert found is not None
    gpu = found.devices[1]
    assert gpu.weights + gpu.kv + gpu.buffers + gpu.left == pytest.approx(8e9, rel=0.1)
    found = facts([silent], free={})
    assert found is not None
    assert [device.name for device in found.devices] == ["local"]
    assert "NVIDIA GPU at 0000:01:00.0 is left out" in found.reasons[0]


def test_a_gpu_with_enough_memory_and_what_is_assumed_of_it() -> None:
    found = facts([_GPU], devices="local", gpu_layers=10)
    assert found is not None
    here, gpu = found.devices
    assert (here.name, gpu.name) == ("local", "CUDA0")
    assert gpu.layers == gpu.feeds == 10
    assert here.layers == 20
    assert min(here.weights, here.kv, gpu.weights, gpu.kv, gpu.buffers) > 0
    assert gpu.weights + gpu.kv + gpu.buffers + gpu.left == pytest.approx(24e9, rel=0.1)
    assert "bandwidth" in gpu.assumed
    assert "bandwidth" not in here.assumed
    assert found.decode > 0
    assert found.reasons


def test_rules_that_cannot_be_followed_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="to be on CUDA7"):
        facts([_GPU], devices="local", placement={"output": "CUDA7"})
    with pytest.raises(ConfigurationError, match=r"no worker answers at 127\.0\.0\.1:1"):
        facts([], devices="local,127.0.0.1:1")


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerReporter]:
    monkeypatch.setattr("tailrace.worker.status_server.BEAT_SECONDS", 0.02)
    monkeypatch.setattr("tailrace.cli.placement_facts.binding_version", lambda: STATUS.llama_cpp)
    found = WorkerReporter()
    yield found
    found.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": PROTOCOL - 1}, "an older version of tailrace than this machine"),
        ({"protocol": PROTOCOL + 1}, "a newer version of tailrace than this machine"),
        ({"llama_cpp": "0.0.1"}, r"llama-cpp-python 0\.0\.1"),
    ],
)
def test_a_worker_of_another_version_is_refused(reporter: WorkerReporter, changes: dict[str, Any], reason: str) -> None:
    reporter.status = msgspec.structs.replace(STATUS, **changes)
    with pytest.raises(ConfigurationError, match=f"{reporter.endpoint} has {reason}"):
        facts([], devices=f"local,{reporter.endpoint}")


def test_a_worker_with_two_addresses_is_refused(reporter: WorkerReporter) -> None:
    reporter.status = msgspec.structs.replace(STATUS, identity="the same")
    port = reporter.endpoint.partition(":")[2]
    with pytest.raises(ConfigurationError, match="names one worker twice"):
        facts([], devices=f"{reporter.endpoint},localhost:{port}")


def test_a_worker_that_is_in_use_is_told(reporter: WorkerReporter) -> None:
    found = facts([], devices=f"local,{reporter.endpoint}")
    assert found is not None
    assert not any("in use" in reason for reason in found.reasons)
    reporter.status = msgspec.structs.replace(STATUS, client="127.0.0.1:9")
    found = facts([], devices=f"local,{reporter.endpoint}")
    assert found is not None
    assert f"The worker at {reporter.endpoint} is in use by 127.0.0.1:9" in found.reasons[0]
