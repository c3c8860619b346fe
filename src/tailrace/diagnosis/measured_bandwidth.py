"""The measured memory bandwidth of this machine, and the file in which it is remembered. It measures nothing itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from tailrace.folders import state_folder
from tailrace.machine import cpulist
from tailrace.machine.topology import Topology
from tailrace.machine.tuning_record import machine_name

#: Seconds after which it is measured again: a virtual machine may have moved.
_MAX_AGE = 30 * 86_400.0


class MeasuredBandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes per second that each NUMA node's CPUs read from the node's own memory."""

    machine: str
    usable: str  #: the usable CPUs, as a CPU list
    measured_at: float  #: seconds since 1970
    rates: dict[int, float]  #: by node

    def of(self, node: int | None) -> float:
        """The bandwidth of a replica with its memory on ``node``; None: on all nodes."""
        return self.rates.get(node, 0.0) if node is not None else sum(self.rates.values())


class BandwidthStore:
    """The file of the record, which need not exist."""

    def __init__(self, path: Path | None = None) -> None:
        """``path`` None is in the user's state folder."""
        self.path = path or state_folder() / "bandwidth.json"

    def find(self, topology: Topology, now: float | None = None) -> MeasuredBandwidth | None:
        """The record for this machine and these CPUs; None where there is none, or where it is old or unreadable."""
        try:
            record = msgspec.json.decode(self.path.read_bytes(), type=MeasuredBandwidth)
        except (OSError, msgspec.MsgspecError):
            return None
        now = time.time() if now is None else now
        known = (record.machine, record.usable) == (machine_name(topology), cpulist.format_cpus(topology.usable))
        return record if known and abs(now - record.measured_at) < _MAX_AGE else None

    def save(self, record: MeasuredBandwidth) -> None:
        """Write the record atomically. Raises OSError where that isn't possible."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(f".{os.getpid()}")
        draft.write_bytes(msgspec.json.encode(record))
        os.replace(draft, self.path)
