"""The figures of one device at one moment: a CPU or a GPU of this machine or of a worker.

A worker reports them in its status, an engine in its heartbeats, the HTTP process in its metrics. A figure that the
system doesn't show is None, and never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

#: Devices of one machine, and characters of a text, that are passed on.
_MAX_DEVICES, _MAX_TEXT = 32, 80
_DEVICE = re.compile(r"cpu|gpu[0-9]{1,2}")

#: Bounds of what another machine may report: what answers there may be anything, and a number must fit into a message.
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
_Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Celsius = Annotated[float, msgspec.Meta(ge=-300, le=1000)]
_Watts = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class DeviceReading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """See the module."""

    device: str  #: ``cpu``, or ``gpu0``, ``gpu1``, … in the order of the PCI bus
    description: str = ""  #: the model's name; empty: not known
    address: str = ""  #: on the PCI bus; empty: not known
    memory: _Bytes | None = None  #: bytes
    free: _Bytes | None = None  #: bytes of it that can be allocated
    use: _Part | None = None  #: the part of the time in which it computed, 0 to 1
    temperature: _Celsius | None = None  #: °C, of its hottest sensor
    temperature_limit: _Celsius | None = None  #: °C at which it slows down or ends
    power: _Watts | None = None  #: W


def bounded(readings: Iterable[DeviceReading]) -> tuple[DeviceReading, ...]:
    """Readings of another machine, with no more devices and no longer texts than a machine has.

    Their names are labels of metrics, so others than those of ``DeviceReading.device`` are left out.
    """
    return tuple(
        msgspec.structs.replace(each, description=each.description[:_MAX_TEXT], address=each.address[:_MAX_TEXT])
        for each in tuple(readings)[:_MAX_DEVICES]
        if _DEVICE.fullmatch(each.device)
    )
