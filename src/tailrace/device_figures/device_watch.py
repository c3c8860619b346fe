"""The figures of all devices of this machine, read when they are asked for.

A GPU has the figures of its vendor's library where that is installed and answers, and otherwise those that its driver
shows in sysfs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import structlog

from tailrace.device_figures.amd import AmdFigures
from tailrace.device_figures.cpu import CpuFigures
from tailrace.device_figures.linux_gpu import read_gpu
from tailrace.device_figures.nvidia import NvidiaFigures
from tailrace.device_figures.source_thread import SourceThread
from tailrace.machine.gpu import Gpu, read_gpus
from tailrace.worker_protocol.device_reading import DeviceReading

#: Seconds that a reader waits for new figures, at most.
_WAIT_SECONDS = 0.3
#: Of a machine whose GPU isn't on the PCI bus, as in the Windows subsystem for Linux.
_NVIDIA_DEVICES = ("dev/nvidiactl", "dev/dxg")

Read = Callable[[], Sequence[DeviceReading]]


class DeviceWatch:
    """See the module."""

    def __init__(self, root: Path = Path("/"), nvidia: Read | None = None, amd: Read | None = None) -> None:
        """``root``: where /proc and /sys are. ``nvidia`` and ``amd``: read the vendors' libraries; None: those that
        this machine's GPUs want and that are installed.
        """
        self._gpus = read_gpus(root)
        self._cpu = SourceThread("cpu", CpuFigures(root).read)
        vendors = {gpu.vendor for gpu in self._gpus}
        is_nvidia = "NVIDIA" in vendors or any((root / path).exists() for path in _NVIDIA_DEVICES)
        libraries: list[SourceThread] = []
        if nvidia is not None or (is_nvidia and _is_installed("pynvml", "nvidia-ml-py")):
            libraries.append(SourceThread("nvidia-ml-py", nvidia or NvidiaFigures().read))
        if amd is not None or ("AMD" in vendors and _is_installed("amdsmi", "amdsmi")):
            libraries.append(SourceThread("amdsmi", amd or AmdFigures().read))
        self._libraries = libraries
        self._sysfs = SourceThread("sysfs", lambda: _read_sysfs(self._gpus, root)) if self._gpus else None

    def ask(self) -> None:
        """Begin to read, where the last reading isn't new. It never waits."""
        for source in self._sources():
            source.ask()

    def wait(self, seconds: float = _WAIT_SECONDS) -> None:
        """Wait until what was asked for is read, for so long at most."""
        deadline = time.monotonic() + seconds
        for source in self._sources():
            source.wait(deadline)

    async def refresh(self) -> None:
        """Ask, and wait beside the event loop."""
        self.ask()
        if any(source.is_awaited for source in self._sources()):
            await asyncio.to_thread(self.wait)

    def latest(self) -> tuple[DeviceReading, ...]:
        """The devices with their last figures: the CPU, then the GPUs. A device without figures is left out."""
        found = {} if self._sysfs is None else {each.address: each for each in self._sysfs.latest()}
        for source in self._libraries:
            for each in source.latest():
                found[each.address] = _joined(each, found.get(each.address))
        numbers = {gpu.address: number for number, gpu in enumerate(self._gpus)}
        for address in sorted(found):
            numbers.setdefault(address, len(numbers))
        named = [msgspec.structs.replace(each, device=f"gpu{numbers[each.address]}") for each in found.values()]
        known = sorted(filter(_has_figures, named), key=lambda each: numbers[each.address])
        return (*self._cpu.latest(), *known)

    def _sources(self) -> Iterable[SourceThread]:
        yield self._cpu
        yield from self._libraries
        if self._sysfs is not None:
            yield self._sysfs


def _read_sysfs(gpus: Sequence[Gpu], root: Path) -> list[DeviceReading]:
    found = []
    for gpu in gpus:
        reading = read_gpu("", gpu.address, root)
        found.append(msgspec.structs.replace(reading, description=gpu.name or f"{gpu.vendor} GPU"))
    return found


def _joined(first: DeviceReading, second: DeviceReading | None) -> DeviceReading:
    """The figures of ``first``, and of ``second`` those that it lacks."""
    if second is None:
        return first
    missing = {name: getattr(second, name) for name in first.__struct_fields__ if getattr(first, name) in (None, "")}
    return msgspec.structs.replace(first, **missing)


def _has_figures(reading: DeviceReading) -> bool:
    return any(each is not None for each in (reading.memory, reading.use, reading.temperature, reading.power))


def _is_installed(module: str, package: str) -> bool:
    if importlib.util.find_spec(module) is not None:
        return True
    structlog.get_logger().info("the GPU's figures are those that the kernel shows", install=package)
    return False
