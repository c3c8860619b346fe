"""Warnings about a machine's state."""

from __future__ import annotations

from pathlib import Path

import pytest

from recorded_machines import machine
from tailrace.machine.gpu import read_gpus
from tailrace.machine.machine_warnings import warnings
from tailrace.machine.plan import ModelNeeds

GB = 10**9


def test_each_cause_of_lost_speed_has_a_warning(tmp_path: Path) -> None:
    topology = machine("gpu-server", tmp_path)
    found = warnings(topology, 100 * GB, gpus=read_gpus(tmp_path), model=ModelNeeds(120 * GB, GB), root=tmp_path)
    for sentence, words in zip(
        found,
        (
            "powersave keeps CPUs 0-3 at",  # Not 4 to 7: their driver's powersave reaches the full clock.
            "huge pages are off",
            "NUMA balancing is on",
            "2.0 GB are in swap",
            "NVIDIA GPU at 0000:17:00.0, but llama.cpp was built without",
            "the model's weights take 120.0 GB and 100.0 GB of memory",
        ),
        strict=True,
    ):
        assert words in sentence


def test_a_machine_in_order_has_no_warnings(tmp_path: Path) -> None:
    topology = machine("desktop-8", tmp_path)
    assert warnings(topology, 24 * GB, model=ModelNeeds(8 * GB, GB), root=tmp_path) == []


@pytest.mark.parametrize(("name", "says"), [("container-quota", "a quota of 2.5 CPUs is below the 16 CPUs")])
def test_a_quota_has_a_warning(name: str, says: str, tmp_path: Path) -> None:
    (sentence,) = warnings(machine(name, tmp_path), GB, root=tmp_path)
    assert says in sentence


def test_a_context_that_does_not_fit_has_another_warning_than_weights(tmp_path: Path) -> None:
    (sentence,) = warnings(machine("desktop-8", tmp_path), 10 * GB, model=ModelNeeds(8 * GB, 4 * GB), root=tmp_path)
    assert "lower --ctx" in sentence
