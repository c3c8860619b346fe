"""The figures of AMD's GPUs, by the library of ROCm through amdsmi, which is an optional dependency.

Source: AMD SMI's Python API reference. A figure that a GPU doesn't have raises an error or is ``"N/A"``. Without amdsmi
the kernel's driver shows the same (``linux_gpu``), but for the GPU's name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from tailrace.device_figures.sensors import plausible
from tailrace.device_figures.vendor_library import VendorLibrary
from tailrace.worker_protocol.device_reading import DeviceReading

#: The unit of ``amdsmi_get_gpu_vram_usage``.
_MEGABYTE = 1024 * 1024


class AmdSmi(Protocol):
    """The functions of the module ``amdsmi`` that are used."""

    AmdSmiException: type[Exception]
    AmdSmiTemperatureType: Any
    AmdSmiTemperatureMetric: Any

    def amdsmi_init(self) -> None: ...
    def amdsmi_shut_down(self) -> None: ...
    def amdsmi_get_processor_handles(self) -> Sequence[Any]: ...
    def amdsmi_get_gpu_device_bdf(self, handle: Any) -> str: ...
    def amdsmi_get_gpu_asic_info(self, handle: Any) -> dict[str, Any]: ...
    def amdsmi_get_gpu_vram_usage(self, handle: Any) -> dict[str, Any]: ...
    def amdsmi_get_gpu_activity(self, handle: Any) -> dict[str, Any]: ...
    def amdsmi_get_temp_metric(self, handle: Any, sensor: Any, metric: Any) -> int: ...
    def amdsmi_get_power_info(self, handle: Any) -> dict[str, Any]: ...


def load_amdsmi() -> AmdSmi:
    """The module. Raises ImportError where amdsmi isn't installed, and KeyError or OSError where ROCm isn't."""
    library: AmdSmi = importlib.import_module("amdsmi")
    return library


class AmdFigures(VendorLibrary[AmdSmi]):
    """See the module."""

    def __init__(self, load: Callable[[], AmdSmi] = load_amdsmi) -> None:
        super().__init__(load)

    def _begin(self, library: AmdSmi) -> None:
        library.amdsmi_init()

    def _end(self, library: AmdSmi) -> None:
        library.amdsmi_shut_down()

    def _failure(self, library: AmdSmi) -> type[Exception]:
        return library.AmdSmiException

    def _handles(self, library: AmdSmi) -> Iterable[Any]:
        return library.amdsmi_get_processor_handles()

    def _read(self, library: AmdSmi, handle: Any) -> DeviceReading:
        return _read(library, handle)


def _read(library: AmdSmi, handle: Any) -> DeviceReading:
    """One GPU. Raises AmdSmiException where it can't be asked at all."""

    def number(figure: Callable[[], Any]) -> float | None:
        try:
            value = figure()
        except library.AmdSmiException:
            return None
        return value if isinstance(value, int | float) else None

    def text(figure: Callable[[], Any]) -> str:
        try:
            value = figure()
        except library.AmdSmiException:
            return ""
        return value if isinstance(value, str) and value != "N/A" else ""

    metrics, sensors = library.AmdSmiTemperatureMetric, library.AmdSmiTemperatureType

    def degrees(metric: Any) -> float | None:
        """Of the hottest place; of a GPU without this sensor, at its edge."""
        for sensor in (sensors.HOTSPOT, sensors.EDGE):
            found = number(lambda sensor=sensor: library.amdsmi_get_temp_metric(handle, sensor, metric))  # type: ignore[misc]  # no type for the default
            if found:
                return plausible(found)
        return None

    memory = number(lambda: library.amdsmi_get_gpu_vram_usage(handle)["vram_total"])
    used = number(lambda: library.amdsmi_get_gpu_vram_usage(handle)["vram_used"])
    busy = number(lambda: library.amdsmi_get_gpu_activity(handle)["gfx_activity"])
    watts = number(lambda: library.amdsmi_get_power_info(handle).get("current_socket_power"))
    if watts is None:
        watts = number(lambda: library.amdsmi_get_power_info(handle).get("average_socket_power"))
    return DeviceReading(
        device="",
        description=text(lambda: library.amdsmi_get_gpu_asic_info(handle)["market_name"]),
        address=library.amdsmi_get_gpu_device_bdf(handle).lower(),
        memory=None if memory is None else round(memory * _MEGABYTE),
        free=None if memory is None or used is None else round(max(0.0, memory - used) * _MEGABYTE),
        use=None if busy is None or busy > 100 else busy / 100,
        temperature=degrees(metrics.CURRENT),
        temperature_limit=degrees(metrics.CRITICAL),
        power=watts,
    )
