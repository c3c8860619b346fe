"""NVML and AMD SMI as libraries whose GPUs are written in the test, with their errors and their hangs."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from servers import PATIENCE


class ScriptedError(Exception):
    """What a library raises."""


@dataclass
class ScriptedGpu:
    """A GPU; None: it doesn't tell this figure."""

    address: str
    name: str = "Scripted"
    memory: int | None = 24 << 30
    used: int = 4 << 30
    use: int | None = 50  #: percent
    temperature: int | None = 61
    limit: int | None = 90
    power: float | None = 120.5  #: W
    lost: bool = False


@dataclass
class Driver:
    """What both libraries have of their driver."""

    gpus: list[ScriptedGpu]
    error: str = ""  #: with which every call fails
    starts: int = 0
    stops: int = 0
    hang: threading.Event = field(default_factory=threading.Event)  #: cleared: calls wait for it

    def __post_init__(self) -> None:
        self.hang.set()

    def called(self, gpu: ScriptedGpu | None = None) -> None:
        """A function of the library is called. Raises ScriptedError."""
        assert self.hang.wait(PATIENCE)
        if self.error:
            raise ScriptedError(self.error)
        if gpu is not None and gpu.lost:
            raise ScriptedError("GPU is lost")

    def figure(self, gpu: ScriptedGpu, value: Any) -> Any:
        """A figure of the GPU. Raises ScriptedError."""
        self.called(gpu)
        if value is None:
            raise ScriptedError("Not Supported")
        return value

    def start(self) -> None:
        """The library is initialised."""
        self.called()
        self.starts += 1

    def stop(self) -> None:
        """The library is let go of."""
        self.stops += 1


def nvml(driver: Driver) -> Any:
    """The module ``pynvml``."""
    figure = driver.figure
    return SimpleNamespace(
        NVMLError=ScriptedError,
        nvmlInit=driver.start,
        nvmlShutdown=driver.stop,
        nvmlDeviceGetCount=lambda: (driver.called(), len(driver.gpus))[1],  # type: ignore[func-returns-value]
        nvmlDeviceGetHandleByIndex=lambda index: driver.gpus[index],
        nvmlDeviceGetPciInfo=lambda gpu: SimpleNamespace(busId=figure(gpu, f"0000{gpu.address}".upper())),
        nvmlDeviceGetName=lambda gpu: figure(gpu, gpu.name.encode()),
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(
            total=figure(gpu, gpu.memory), free=gpu.memory - gpu.used, used=gpu.used
        ),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=figure(gpu, gpu.use), memory=0),
        nvmlDeviceGetTemperature=lambda gpu, sensor: figure(gpu, gpu.temperature),
        nvmlDeviceGetTemperatureThreshold=lambda gpu, threshold: figure(gpu, gpu.limit),
        nvmlDeviceGetPowerUsage=lambda gpu: round(1000 * figure(gpu, gpu.power)),
    )


def amdsmi(driver: Driver) -> Any:
    """The module ``amdsmi``."""
    figure = driver.figure

    def temperature(gpu: ScriptedGpu, sensor: str, metric: str) -> int:
        if sensor == "hotspot":
            raise ScriptedError("AMDSMI_STATUS_NOT_SUPPORTED")
        found: int = figure(gpu, gpu.temperature if metric == "current" else gpu.limit)
        return found

    return SimpleNamespace(
        AmdSmiException=ScriptedError,
        AmdSmiTemperatureType=SimpleNamespace(HOTSPOT="hotspot", EDGE="edge"),
        AmdSmiTemperatureMetric=SimpleNamespace(CURRENT="current", CRITICAL="critical"),
        amdsmi_init=driver.start,
        amdsmi_shut_down=driver.stop,
        amdsmi_get_processor_handles=lambda: (driver.called(), driver.gpus)[1],  # type: ignore[func-returns-value]
        amdsmi_get_gpu_device_bdf=lambda gpu: figure(gpu, gpu.address.upper()),
        amdsmi_get_gpu_asic_info=lambda gpu: {"market_name": figure(gpu, gpu.name)},
        amdsmi_get_gpu_vram_usage=lambda gpu: {
            "vram_total": figure(gpu, gpu.memory) >> 20,
            "vram_used": gpu.used >> 20,
        },
        amdsmi_get_gpu_activity=lambda gpu: {"gfx_activity": "N/A" if gpu.use is None else figure(gpu, gpu.use)},
        amdsmi_get_temp_metric=temperature,
        amdsmi_get_power_info=lambda gpu: {
            "current_socket_power": "N/A",
            "average_socket_power": figure(gpu, gpu.power),
        },
    )


def write_files(root: Path, files: dict[str, str]) -> None:
    """Files of /proc and /sys below ``root``."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_gpu(root: Path, address: str, vendor: str, files: dict[str, str] | None = None) -> None:
    """A GPU on the PCI bus of ``root``; ``vendor``: such as ``0x10de``."""
    folder = f"sys/bus/pci/devices/{address}"
    known = {"class": "0x030000\n", "vendor": f"{vendor}\n", **(files or {})}
    write_files(root, {f"{folder}/{name}": text for name, text in known.items()})


def machine(root: Path) -> Path:
    """The files of a machine with 64 GB of memory, 16 of them free."""
    write_files(
        root,
        {
            "proc/meminfo": "MemTotal: 64000000 kB\nMemFree: 1 kB\nMemAvailable: 16000000 kB\n",
            "proc/stat": "cpu 100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0\n",
            "proc/cpuinfo": "model name\t: Scripted CPU\n",
            "sys/devices/system/cpu/online": "0\n",
            "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 64000000 kB\nNode 0 MemFree: 1 kB\n",
            "sys/devices/system/node/node0/cpulist": "0\n",
        },
    )
    return root
