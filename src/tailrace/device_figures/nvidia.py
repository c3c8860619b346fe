"""The figures of NVIDIA's GPUs, by the driver's library NVML through nvidia-ml-py, which is an optional dependency.

Source: NVML's API reference. Each figure that a GPU doesn't have raises an error of its own there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from tailrace.device_figures.sensors import plausible
from tailrace.device_figures.vendor_library import VendorLibrary
from tailrace.worker_protocol.device_reading import DeviceReading

#: ``NVML_TEMPERATURE_GPU`` and ``NVML_TEMPERATURE_THRESHOLD_SLOWDOWN``.
_CORE_SENSOR, _SLOWDOWN = 0, 1
Figure = TypeVar("Figure")


class Nvml(Protocol):
    """The functions of the module ``pynvml`` that are used."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802  # NVML's names
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetPciInfo(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: Any) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: N802
    def nvmlDeviceGetTemperatureThreshold(self, handle: Any, threshold: int) -> int: ...  # noqa: N802
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...  # noqa: N802


def load_nvml() -> Nvml:
    """The module. Raises ImportError where nvidia-ml-py isn't installed."""
    library: Nvml = importlib.import_module("pynvml")
    return library


class NvidiaFigures(VendorLibrary[Nvml]):
    """See the module."""

    def __init__(self, load: Callable[[], Nvml] = load_nvml) -> None:
        super().__init__(load)

    def _begin(self, library: Nvml) -> None:
        library.nvmlInit()

    def _end(self, library: Nvml) -> None:
        library.nvmlShutdown()

    def _failure(self, library: Nvml) -> type[Exception]:
        return library.NVMLError

    def _handles(self, library: Nvml) -> Iterable[int]:
        return range(library.nvmlDeviceGetCount())

    def _read(self, library: Nvml, handle: int) -> DeviceReading:
        return _read(library, library.nvmlDeviceGetHandleByIndex(handle))


def _read(library: Nvml, handle: Any) -> DeviceReading:
    """One GPU. Raises NVMLError where it can't be asked at all, as when it is lost."""

    def ask(figure: Callable[[], Figure]) -> Figure | None:
        try:
            return figure()
        except library.NVMLError:
            return None

    address = _text(library.nvmlDeviceGetPciInfo(handle).busId).lower()
    memory = ask(lambda: library.nvmlDeviceGetMemoryInfo(handle))
    rates = ask(lambda: library.nvmlDeviceGetUtilizationRates(handle))
    temperature = ask(lambda: library.nvmlDeviceGetTemperature(handle, _CORE_SENSOR))
    limit = ask(lambda: library.nvmlDeviceGetTemperatureThreshold(handle, _SLOWDOWN))
    milliwatts = ask(lambda: library.nvmlDeviceGetPowerUsage(handle))
    return DeviceReading(
        device="",
        description=_text(ask(lambda: library.nvmlDeviceGetName(handle)) or ""),
        # NVML writes the PCI domain with eight digits, and Linux with four.
        address=address[4:] if address.index(":") == 8 else address,
        memory=None if memory is None else int(memory.total),
        free=None if memory is None else int(memory.free),
        use=None if rates is None else min(1.0, rates.gpu / 100),
        temperature=None if temperature is None else plausible(temperature),
        temperature_limit=None if not limit else plausible(limit),
        power=None if milliwatts is None else milliwatts / 1000,
    )


def _text(text: str | bytes) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
