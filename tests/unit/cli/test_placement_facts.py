"""The placement that ``doctor`` shows: from the settings' devices, and what is known of them without loading."""

from __future__ import annotations

import msgspec
import pytest

from tailrace.cli.placement_facts import PlacementFacts, placement_facts
from tailrace.errors import ConfigurationError
from tailrace.machine.gpu import Gpu
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, Settings

_GPU = Gpu(vendor="NVIDIA", name=None, address="0000:01:00.0", memory=24 * 10**9, node=None, backends=("cuda",))


def facts(gpus: list[Gpu], bandwidth: float | None = 40e9, **settings: object) -> PlacementFacts | None:
    path = locate_model(STARTER_MODEL).path
    return placement_facts(path, msgspec.convert(settings, Settings), gpus, bandwidth)


def test_without_devices_llama_cpp_decides() -> None:
    assert facts([_GPU]) is None


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
