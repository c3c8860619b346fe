"""Instruction sets, GPUs, memory, bandwidth and what a kernel's settings cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from recorded_machines import expand, machine
from tailrace.machine.bandwidth import measure_bandwidth
from tailrace.machine.free_memory import available_memory
from tailrace.machine.gpu import Gpu, build_backends, offloads, read_gpus
from tailrace.machine.health import warnings
from tailrace.machine.isa import read_isa
from tailrace.machine.plan import ModelNeeds
from tailrace.machine.topology import read_topology

GB = 10**9


def test_instruction_sets_and_the_formats_that_are_fast_on_them(tmp_path: Path) -> None:
    desktop = read_isa(expand("desktop-8", tmp_path / "1"))
    assert desktop.sets == ("AVX", "F16C", "FMA", "AVX2")
    assert desktop.formats == ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4")
    server = read_isa(expand("gpu-server", tmp_path / "2"))
    assert {"AVX-512 VNNI", "AMX INT8", "AMX BF16"} <= set(server.sets)
    assert {"Q4_1", "Q8_0", "Q6_K", "Q2_K"} <= set(server.formats)
    board = read_isa(expand("arm-big-little", tmp_path / "3"))
    assert board.sets == ("NEON", "DOTPROD")
    assert "Q8_0" in board.formats
    assert read_isa(tmp_path).sets == ()


def test_gpus_by_their_pci_class_and_vendor(tmp_path: Path) -> None:
    gpus = read_gpus(expand("gpu-server", tmp_path))
    assert gpus == [
        Gpu("NVIDIA", "NVIDIA L40S", "0000:17:00.0", None, 1, ("cuda", "vulkan")),
        Gpu("AMD", None, "0000:83:00.0", 17_163_091_968, None, ("hip", "vulkan")),
    ]
    assert not offloads(gpus, ())
    assert not offloads(gpus, ("sycl",))
    assert offloads(gpus, ("cuda",))
    assert not offloads([], ("cuda",))


def test_what_llama_cpp_was_built_with_shows_in_its_libraries(tmp_path: Path) -> None:
    for name in ("libggml-base.so.0.2", "libggml-cpu.so", "libggml-cuda.so", "libggml-vulkan.so.0", "libllama.so"):
        (tmp_path / "lib" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "lib" / name).touch()
    assert build_backends(tmp_path) == ("cuda", "vulkan")


def test_memory_that_is_available_is_what_the_tightest_group_leaves(tmp_path: Path) -> None:
    assert available_memory(expand("desktop-8", tmp_path / "1")) == 24_000_000 * 1024
    assert available_memory(expand("pod-nested", tmp_path / "2")) == 4 << 30
    assert available_memory(expand("container-3-cpus", tmp_path / "3")) == 6 << 30


def test_bandwidth_of_this_machine() -> None:
    topology = read_topology()
    measured = measure_bandwidth(topology)
    assert [each.node for each in measured] == sorted({core.node for core in topology.usable_cores})
    for each in measured:
        assert 1 in each.rates
        # Slower than any memory that runs this, and faster than any cache of many cores.
        assert all(1e8 < rate < 1e14 for rate in each.rates.values())
        assert each.best == max(each.rates.values())


def test_what_costs_speed_is_said(tmp_path: Path) -> None:
    topology = machine("gpu-server", tmp_path)
    found = warnings(topology, 100 * GB, gpus=read_gpus(tmp_path), model=ModelNeeds(120 * GB, GB), root=tmp_path)
    for sentence, words in zip(
        found,
        (
            "powersave keeps CPUs 0-3 at",  # Not 4 to 7: their driver's own powersave is no such thing.
            "huge pages are off",
            "NUMA balancing is on",
            "2.0 GB are in swap",
            "NVIDIA GPU at 0000:17:00.0, but llama.cpp was built without",
            "the model's weights take 120.0 GB and 100.0 GB of memory",
        ),
        strict=True,
    ):
        assert words in sentence


def test_a_machine_in_order_has_nothing_to_say(tmp_path: Path) -> None:
    topology = machine("desktop-8", tmp_path)
    assert warnings(topology, 24 * GB, model=ModelNeeds(8 * GB, GB), root=tmp_path) == []


@pytest.mark.parametrize(("name", "says"), [("container-quota", "a quota of 2.5 CPUs is below the 16 CPUs")])
def test_a_quota_is_warned_about(name: str, says: str, tmp_path: Path) -> None:
    (sentence,) = warnings(machine(name, tmp_path), GB, root=tmp_path)
    assert says in sentence


def test_a_context_that_doesn_t_fit_is_told_from_weights_that_don_t(tmp_path: Path) -> None:
    (sentence,) = warnings(machine("desktop-8", tmp_path), 10 * GB, model=ModelNeeds(8 * GB, 4 * GB), root=tmp_path)
    assert "lower --ctx" in sentence
