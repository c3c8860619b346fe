"""Temperatures and power from Linux's hwmon and thermal zones.

Source: the kernel's Documentation/ABI/testing/sysfs-class-hwmon and Documentation/driver-api/thermal/sysfs-api.rst.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tailrace.observe.kernel_file import read_number, read_text

#: Drivers whose sensors are in a CPU, by the name of their hwmon folder.
_CPU_DRIVERS = ("coretemp", "k10temp", "zenpower", "fam15h_power", "cpu_thermal", "cpu-thermal")
#: The beginnings of the types of thermal zones that are a CPU's.
_CPU_ZONES = ("x86_pkg_temp", "cpu")
#: °C. A sensor that isn't connected reports values outside.
_COLDEST, _HOTTEST = -40.0, 150.0


class Heat(NamedTuple):
    """The hottest sensor of a device, in °C; None: there is none."""

    temperature: float | None = None
    limit: float | None = None  #: at which the device slows down or ends


def cpu_heat(root: Path) -> Heat:
    """The hottest sensor of the machine's CPUs."""
    folders = [folder for folder in _folders(root / "sys/class/hwmon") if _name(folder) in _CPU_DRIVERS]
    found = hottest(folders)
    if found.temperature is not None:
        return found
    zones = [
        Heat(_celsius(zone / "temp"))
        for zone in _folders(root / "sys/class/thermal")
        if read_text(zone / "type").strip().lower().startswith(_CPU_ZONES)
    ]
    return max(zones, key=_by_temperature, default=Heat())


def hottest(folders: Iterable[Path]) -> Heat:
    """The hottest sensor of these hwmon folders."""
    found = []
    for folder in folders:
        for file in folder.glob("temp*_input"):
            limits = (_celsius(file.with_name(file.name.replace("input", kind))) for kind in ("crit", "max"))
            found.append(Heat(_celsius(file), next((limit for limit in limits if limit), None)))
    return max(found, key=_by_temperature, default=Heat())


def power(folders: Iterable[Path]) -> float | None:
    """W that these hwmon folders' device takes; None where it isn't measured."""
    for folder in folders:
        for name in ("power1_input", "power1_average"):
            if (microwatts := read_number(folder / name)) is not None:
                return microwatts / 1e6
    return None


def plausible(temperature: float) -> float | None:
    """The temperature in °C; None for one that no device has."""
    return temperature if _COLDEST < temperature < _HOTTEST else None


def _celsius(path: Path) -> float | None:
    """Of a file in thousandths of a degree."""
    try:
        return plausible(int(read_text(path)) / 1000)
    except ValueError:
        return None


def _by_temperature(heat: Heat) -> float:
    return _COLDEST if heat.temperature is None else heat.temperature


def _name(folder: Path) -> str:
    return read_text(folder / "name").strip()


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(parent.iterdir())
    except OSError:
        return []
