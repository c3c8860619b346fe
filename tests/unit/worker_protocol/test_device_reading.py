"""What another machine may report of its devices: an engine passes it on in messages, which have bounds."""

from __future__ import annotations

import msgspec
import pytest

from tailrace.worker_protocol.device_reading import DeviceReading
from tailrace.worker_protocol.status import PROTOCOL, WorkerStatus, decode_status, encode_status

USUAL = DeviceReading(device="gpu0", memory=7_000, free=6_000, use=0.25, temperature=51.5, power=123.5)


def status(reading: DeviceReading) -> bytes:
    return encode_status(
        WorkerStatus(llama_cpp="1", threads=2, devices=(), hardware=(reading,), sending_seconds=2.5, protocol=PROTOCOL)
    )


def test_figures_arrive_as_they_were_sent() -> None:
    found = decode_status(status(USUAL))
    assert (found.hardware, found.sending_seconds) == ((USUAL,), 2.5)


@pytest.mark.parametrize(
    ("usual", "bad"),
    [
        ('"memory":7000', f'"memory":{1 << 70}'),
        ('"memory":7000', '"memory":-1'),
        ('"free":6000', f'"free":{10**400}'),
        ('"use":0.25', '"use":1e300'),
        ('"use":0.25', '"use":-0.5'),
        ('"temperature":51.5', '"temperature":1e30'),
        ('"power":123.5', '"power":1e999'),
        ('"sending_seconds":2.5', '"sending_seconds":-1'),
    ],
)
def test_a_figure_that_no_device_has_is_refused(usual: str, bad: str) -> None:
    """A number that doesn't fit into a message would end the engine that passes it on."""
    line = status(USUAL).replace(usual.encode(), bad.encode())
    assert bad.encode() in line
    with pytest.raises(msgspec.DecodeError):
        decode_status(line)
