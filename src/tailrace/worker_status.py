"""What a worker reports of itself, to each engine that listens: lines of JSON over TCP, and nothing else.

llama.cpp's RPC protocol has no sign of life: a worker that hangs looks like one that computes. So a worker has a second
port, one above its own, where each connection gets a ``WorkerStatus`` at once and then one every ``BEAT_SECONDS``.
Nothing is read there.
"""

from __future__ import annotations

import msgspec

from tailrace.device_reading import DeviceReading
from tailrace.device_speed import DeviceSpeed

#: The port of a worker where none is named: that of llama.cpp's own RPC server.
DEFAULT_PORT = 50_052
#: The status port, counted from the worker's own.
STATUS_PORT_OFFSET = 1
#: Seconds between two reports.
BEAT_SECONDS = 0.5
#: Seconds without one after which a worker counts as lost.
SILENCE_SECONDS = 2.5
#: Bytes of a report, at most.
MAX_STATUS_BYTES = 65_536


class OfferedDevice(msgspec.Struct, frozen=True):
    """A device of a worker."""

    name: str  #: llama.cpp's there, such as ``CPU`` or ``CUDA0``
    description: str
    free: int  #: bytes of its memory
    total: int
    speed: DeviceSpeed | None = None  #: as the worker has measured it; None: it couldn't


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A worker now."""

    llama_cpp: str  #: the version of llama-cpp-python: both ends must have the same
    threads: int  #: of a device that is a CPU
    devices: tuple[OfferedDevice, ...]  #: in the order in which llama.cpp's protocol numbers them
    client: str | None = None  #: the address of the engine that uses it, where the system tells it
    hardware: tuple[DeviceReading, ...] = ()  #: the figures of its CPU and its GPUs
    sending_seconds: float | None = None  #: in which bytes to that engine were on their way; None: not counted


def encode_status(status: WorkerStatus) -> bytes:
    """The line for it."""
    return msgspec.json.encode(status) + b"\n"


def decode_status(line: bytes) -> WorkerStatus:
    """The report of a line. Raises msgspec.DecodeError for another one."""
    return msgspec.json.decode(line, type=WorkerStatus)
