"""Remembered speeds of devices: for the same device and build alone, and not for ever."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tailrace.engine.devices.speed_store import SpeedKey, SpeedStore
from tailrace.worker_protocol.device_speed import DeviceSpeed, ProductSpeed

_KEY = SpeedKey(device="CPU a processor", llama_cpp="1", kernels="avx2", repacks=False, threads=2, cpus="0-1")
_SPEED = DeviceSpeed(products={"Q4_0": ProductSpeed(bandwidth=1e9, arithmetic=1e9)}, layer_seconds=0.0)
_DAY = 86_400.0


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    store = SpeedStore(tmp_path / "speeds")
    assert store.find(_KEY) is None
    store.save(_KEY, _SPEED)
    assert store.find(_KEY) == _SPEED


@pytest.mark.parametrize(
    "change",
    [
        {"device": "CUDA0 another"},
        {"llama_cpp": "2"},
        {"kernels": ""},
        {"repacks": True},
        {"threads": 3},
        {"cpus": "0"},
        {"driver": "2"},
    ],
)
def test_another_device_or_build_has_none(tmp_path: Path, change: dict[str, object]) -> None:
    store = SpeedStore(tmp_path)
    store.save(_KEY, _SPEED)
    assert store.find(msgspec.structs.replace(_KEY, **change)) is None


def test_an_old_speed_is_measured_again(tmp_path: Path) -> None:
    store = SpeedStore(tmp_path)
    store.save(_KEY, _SPEED, now=0.0)
    assert store.find(_KEY, now=_DAY) == _SPEED
    assert store.find(_KEY, now=40 * _DAY) is None


def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    store = SpeedStore(tmp_path)
    store.save(_KEY, _SPEED)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"{")
    assert store.find(_KEY) is None
