"""Measuring this machine's CPU with ggml: the figures exist, and they are measured once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.engine.backends.llama import device_speeds, devices
from tailrace.engine.backends.llama.device_speeds import device_speed
from tailrace.engine.backends.llama.measure_device import measure_device, measure_link
from tailrace.engine.devices.speed_store import SpeedStore
from tailrace.worker_protocol.device_speed import DeviceSpeed


@pytest.fixture(scope="module")
def measured() -> DeviceSpeed:
    formats = ("Q4_0", "F16", "no format")
    return measure_device(devices.cpu_device(), threads=1, formats=formats, experts=formats, repacks=True)


def test_each_known_format_is_measured(measured: DeviceSpeed) -> None:
    assert set(measured.products) == set(measured.experts) == {"Q4_0", "F16"}
    speeds = [*measured.products.values(), *measured.experts.values()]
    assert all(each.bandwidth > 0 and each.arithmetic > 0 for each in speeds)
    assert measured.layer_seconds > 0


def test_the_link_of_two_backends_is_measured() -> None:
    cpu = devices.cpu_device()
    link = measure_link(cpu, cpu, threads=1)
    assert link.bandwidth > 0
    assert link.layer_seconds >= 0


def test_a_device_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: DeviceSpeed) -> None:
    asked: list[tuple[list[str], list[str]]] = []

    def measure(*_: object, formats: list[str], experts: list[str], **__: object) -> DeviceSpeed:
        asked.append((formats, experts))
        speed = measured.products["Q4_0"]
        return DeviceSpeed(
            products=dict.fromkeys(formats, speed),
            experts=dict.fromkeys(experts, speed),
            layer_seconds=measured.layer_seconds,
        )

    monkeypatch.setattr(device_speeds, "measure_device", measure)
    # The measurement has had no time of its own here, as on a busy machine.
    monkeypatch.setattr(device_speeds, "_OWN_PART", 0.0)
    store = SpeedStore(tmp_path)
    wanted: list[tuple[list[str], list[str]]] = [(["Q4_0"], []), (["Q4_0"], []), (["Q8_0", "Q4_0"], ["Q4_0"])]
    for formats, experts in wanted:
        found = device_speed(devices.cpu_device(), threads=1, formats=formats, experts=experts, store=store)
        assert set(formats) <= set(found.products)
        assert set(experts) <= set(found.experts)
    assert asked == [(["Q4_0"], []), (["Q8_0"], ["Q4_0"])]


def test_a_speed_of_a_busy_machine_is_not_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device_speeds, "_OWN_PART", 2.0)
    store = SpeedStore(tmp_path)
    assert device_speed(devices.cpu_device(), threads=1, formats=["F32"], store=store).products
    assert not list(tmp_path.iterdir())
