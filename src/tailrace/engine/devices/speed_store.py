"""The measured speeds of devices that are remembered: a file for each device, build and way to compute.

It measures nothing itself.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import msgspec

from tailrace.folders import state_folder
from tailrace.worker_protocol.device_speed import DeviceSpeed

#: Seconds after which a device is measured again: a virtual machine may have moved.
_MAX_AGE = 30 * 86_400.0
#: NVIDIA's driver, which computes with kernels of its own. Other drivers come with the kernel of the system.
_DRIVER = Path("/proc/driver/nvidia/version")


class SpeedKey(msgspec.Struct, frozen=True, kw_only=True):
    """The conditions for which a speed is true."""

    device: str  #: llama.cpp's name and description of it
    llama_cpp: str  #: the version of llama-cpp-python
    kernels: str  #: the tier of the kernels; empty: llama.cpp's own
    repacks: bool  #: whether weights are repacked
    threads: int  #: of a CPU
    cpus: str  #: those that may be used, as a CPU list
    driver: str = ""  #: of the system, and of a GPU


class RememberedSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """A file's content."""

    key: SpeedKey
    measured_at: float  #: seconds since 1970
    speed: DeviceSpeed


class SpeedStore:
    """The folder of the files, which need not exist yet."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` None is in the user's state folder."""
        self.folder = folder or state_folder() / "device-speeds"

    def find(self, key: SpeedKey, now: float | None = None) -> DeviceSpeed | None:
        """The device's speed; None where none is remembered, or where it is old or unreadable."""
        try:
            found = msgspec.json.decode(self._path(key).read_bytes(), type=RememberedSpeed)
        except (OSError, msgspec.MsgspecError):
            return None
        age = abs((time.time() if now is None else now) - found.measured_at)
        return found.speed if found.key == key and age < _MAX_AGE else None

    def save(self, key: SpeedKey, speed: DeviceSpeed, now: float | None = None) -> None:
        """Write the file atomically. Raises OSError."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        measured_at = time.time() if now is None else now
        draft.write_bytes(msgspec.json.encode(RememberedSpeed(key=key, measured_at=measured_at, speed=speed)))
        os.replace(draft, path)

    def _path(self, key: SpeedKey) -> Path:
        return self.folder / f"{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32]}.json"


def driver() -> str:
    """The system's kernel, and NVIDIA's driver where there is one."""
    system = os.uname()
    try:
        nvidia = _DRIVER.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        nvidia = ""
    return f"{system.sysname} {system.release} {nvidia}".strip()
