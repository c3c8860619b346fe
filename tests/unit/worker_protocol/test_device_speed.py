"""What measured speeds say of mixed formats, and what a worker may not report."""

from __future__ import annotations

import msgspec
import pytest

from tailrace.worker_protocol.device_speed import DeviceSpeed, ProductSpeed, Weights
from tailrace.worker_protocol.status import PROTOCOL, OfferedDevice, WorkerStatus, decode_status, encode_status

_SPEED = DeviceSpeed(
    products={
        "Q4_0": ProductSpeed(bandwidth=40e9, arithmetic=200e9),
        "Q8_0": ProductSpeed(bandwidth=20e9, arithmetic=100e9),
    },
    layer_seconds=30e-6,
)


def test_formats_take_their_times_one_after_the_other() -> None:
    found = _SPEED.of({"Q4_0": Weights(40_000, 80_000), "Q8_0": Weights(40_000, 40_000)})
    # 1 µs and 2 µs for 80 kB; 0.4 µs and 0.4 µs for 120,000 multiplications.
    assert found.bandwidth == pytest.approx(80_000 / 3e-6)
    assert found.arithmetic == pytest.approx(120_000 / 0.8e-6)


def test_one_format_has_its_own_speed() -> None:
    found = _SPEED.of({"Q4_0": Weights(10, 20)})
    assert (found.bandwidth, found.arithmetic) == pytest.approx((40e9, 200e9))


def test_a_format_that_was_not_measured_counts_as_the_slowest() -> None:
    assert _SPEED.of({"IQ2_S": Weights(10, 20)}).bandwidth == pytest.approx(20e9)


def _status(speed: DeviceSpeed | None) -> WorkerStatus:
    device = OfferedDevice("CPU", "a processor", 1_000, 2_000, speed)
    return WorkerStatus(llama_cpp="1", threads=2, devices=(device,), protocol=PROTOCOL)


@pytest.mark.parametrize("speed", [_SPEED, None])
def test_a_worker_reports_its_speed(speed: DeviceSpeed | None) -> None:
    assert decode_status(encode_status(_status(speed))).devices[0].speed == speed


@pytest.mark.parametrize("rate", ["0", "-1", "1e300", "1e18000", "NaN", '"fast"', "null"])
def test_a_speed_that_no_device_has_is_refused(rate: str) -> None:
    line = encode_status(_status(_SPEED)).replace(b"40000000000.0", rate.encode())
    assert rate.encode() in line
    with pytest.raises(msgspec.DecodeError):
        decode_status(line)


def test_a_speed_without_products_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(b'{"products":{},"layer_seconds":0}', type=DeviceSpeed)
