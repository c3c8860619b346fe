"""A worker's reports to each engine that listens, and an engine's claim on the worker: lines of JSON over TCP.

llama.cpp's RPC protocol has no sign of life: a worker that hangs looks like one that computes. So a worker has a second
port, one above its own, where each connection gets a ``WorkerStatus`` at once and then one every ``BEAT_SECONDS``.

llama.cpp serves one client at a time, and lets others wait without a limit. So an engine claims the worker there before
it connects: it sends a ``Claim``, and again after each report. The claim ends with the connection, and where none has
come for ``CLAIM_SECONDS``; the worker then closes the RPC connection, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec

from tailrace.worker_protocol.device_reading import DeviceReading
from tailrace.worker_protocol.device_speed import DeviceSpeed

_Message = TypeVar("_Message")

#: The port of a worker where none is named: that of llama.cpp's own RPC server.
DEFAULT_PORT = 50_052
#: The status port, counted from the worker's own.
STATUS_PORT_OFFSET = 1
#: The highest port of a worker: its status port needs one, too.
MAX_PORT = 65_535 - STATUS_PORT_OFFSET
#: Seconds between two reports.
BEAT_SECONDS = 0.5
#: Seconds without one after which a worker counts as lost.
SILENCE_SECONDS = 2.5
#: Seconds without a claim after which its holder counts as lost.
CLAIM_SECONDS = 5.0
#: Bytes of a report and of a claim, at most.
MAX_STATUS_BYTES, MAX_CLAIM_BYTES = 65_536, 1024
#: The version of these messages. An engine uses workers of its own version alone.
PROTOCOL = 2


#: Bounds of what a worker may report: what answers at its port may be anything.
_Text = Annotated[str, msgspec.Meta(max_length=200)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]


class OfferedDevice(msgspec.Struct, frozen=True):
    """A device of a worker."""

    name: _Text  #: llama.cpp's there, such as ``CPU`` or ``CUDA0``
    description: _Text
    free: _Bytes  #: of its memory
    total: _Bytes
    speed: DeviceSpeed | None = None  #: as the worker has measured it; None: it couldn't


class OperationCounts(msgspec.Struct, frozen=True):
    """How many operations of one kind a process has computed."""

    repacked: int = 0  #: by the kernels, with repacked weights
    own: int = 0  #: by the kernels, with weights as in the file or without weights
    upstream: int = 0  #: by llama.cpp


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A worker now."""

    llama_cpp: _Text  #: the version of llama-cpp-python: both ends must have the same
    threads: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]  #: of a device that is a CPU
    #: In the order in which llama.cpp's protocol numbers them.
    devices: Annotated[tuple[OfferedDevice, ...], msgspec.Meta(max_length=64)]
    identity: _Text = ""  #: a random name of the process, by which a worker that has two addresses is known
    client: _Text | None = None  #: the address of the engine that uses it, where the system lists it
    #: The figures of its CPU and its GPUs.
    hardware: Annotated[tuple[DeviceReading, ...], msgspec.Meta(max_length=64)] = ()
    #: In which bytes to that engine were on their way; None: not counted.
    sending_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None
    holder: str | None = None  #: the engine that has claimed it
    reads_mask_runs: bool = False  #: whether it writes attention masks from runs of cells
    repacked_bytes: _Bytes = 0  #: of the CPU's memory that the kernels' copies of the weights take
    #: That the CPU has computed, by kind; none without the kernels.
    operations: Annotated[Mapping[_Text, OperationCounts], msgspec.Meta(max_length=64)] = {}
    protocol: int = 1  #: ``PROTOCOL`` there; the first version didn't report it


class Claim(msgspec.Struct, frozen=True):
    """An engine's wish to use the worker, or its sign of life while it does."""

    engine: str  #: a name that no other engine has, which people can read


class _Version(msgspec.Struct, frozen=True):
    """The field that all versions of a report have."""

    protocol: int = 1


def encode_status(status: WorkerStatus) -> bytes:
    """The line for it."""
    return msgspec.json.encode(status) + b"\n"


def decode_status(line: bytes) -> WorkerStatus:
    """The report of a line. Raises ValueError for another one, and OtherVersionError."""
    version = _decode(line, _Version).protocol
    if version != PROTOCOL:
        raise OtherVersionError(version)
    return _decode(line, WorkerStatus)


def encode_claim(claim: Claim) -> bytes:
    """The line for it."""
    return msgspec.json.encode(claim) + b"\n"


def decode_claim(line: bytes) -> Claim:
    """The claim of a line. Raises ValueError for another one."""
    return _decode(line, Claim)


def parse_port(text: str) -> int | None:
    """A worker's port, of which 0 stands for any; None for a text that is none."""
    if not text.isascii() or not text.isdecimal() or len(text) > 5 or int(text) > MAX_PORT:
        return None
    return int(text)


def _decode(line: bytes, kind: type[_Message]) -> _Message:
    try:
        return msgspec.json.decode(line, type=kind)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class OtherVersionError(Exception):
    """The worker's messages have another version, ``version``."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version

    @property
    def is_older(self) -> bool:
        """Whether the worker is older than this process."""
        return self.version < PROTOCOL
