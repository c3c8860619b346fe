"""The devices of scripted machines, with sensors, drivers and vendors' libraries of each kind."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from scripted_gpus import Driver, ScriptedGpu, amdsmi, machine, nvml, write_files, write_gpu
from servers import PATIENCE
from tailrace.device_figures import cpu as cpu_figures
from tailrace.device_figures.amd import AmdFigures
from tailrace.device_figures.cpu import CpuFigures
from tailrace.device_figures.device_watch import DeviceWatch
from tailrace.device_figures.nvidia import NvidiaFigures
from tailrace.worker_protocol.device_reading import DeviceReading, bounded

NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"
HWMON = "sys/class/hwmon/hwmon0"


def devices(watch: DeviceWatch, count: int) -> tuple[DeviceReading, ...]:
    """The devices, when all of them are there."""
    deadline = time.monotonic() + PATIENCE
    while len(found := watch.latest()) < count:
        assert time.monotonic() < deadline, found
        watch.ask()
        time.sleep(0.005)
    return found


def test_a_machine_with_a_cpu(tmp_path: Path) -> None:
    (found,) = devices(DeviceWatch(machine(tmp_path)), 1)
    assert found == DeviceReading(
        device="cpu", description="Scripted CPU", memory=64_000_000 * 1024, free=16_000_000 * 1024
    )


def test_a_cpu_s_use_is_the_mean_since_the_last_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_figures, "_MIN_SECONDS", 0.0)
    figures = CpuFigures(machine(tmp_path))
    assert figures.read()[0].use is None, "no time has passed"
    for stat, use in (
        ("cpu 150 0 150 900 0 0 0 0 0 0", 0.5),
        ("cpu 150 0 150 900 0 0 0 0 0 0", 0.5),  # The clock hasn't ticked.
        ("cpu 150 0 150 950 40 0 0 10 0 0", 0.0),  # Waits for disks, and time of other virtual machines, are idle.
        ("cpu 160 10 150 950 40 5 5 10 30 0", 1.0),
    ):
        write_files(tmp_path, {"proc/stat": f"{stat}\n"})
        assert figures.read()[0].use == use


def test_a_cpu_s_heat_is_its_hottest_sensor_s(tmp_path: Path) -> None:
    machine(tmp_path)
    write_files(
        tmp_path,
        {
            f"{HWMON}/name": "coretemp\n",
            f"{HWMON}/temp1_input": "61000\n",
            f"{HWMON}/temp1_crit": "100000\n",
            f"{HWMON}/temp2_input": "64500\n",
            f"{HWMON}/temp2_crit": "99000\n",
            f"{HWMON}/temp3_input": "-273150\n",
            "sys/class/hwmon/hwmon1/name": "nvme\n",
            "sys/class/hwmon/hwmon1/temp1_input": "80000\n",
        },
    )
    (found,) = devices(DeviceWatch(tmp_path), 1)
    assert (found.temperature, found.temperature_limit) == (64.5, 99.0)


def test_thermal_zones_tell_the_heat_where_no_driver_does(tmp_path: Path) -> None:
    machine(tmp_path)
    zones = {"acpitz": "90000", "cpu-thermal": "51000", "x86_pkg_temp": "48000"}
    for number, (kind, value) in enumerate(zones.items()):
        folder = f"sys/class/thermal/thermal_zone{number}"
        write_files(tmp_path, {f"{folder}/type": f"{kind}\n", f"{folder}/temp": f"{value}\n"})
    (found,) = devices(DeviceWatch(tmp_path), 1)
    assert (found.temperature, found.temperature_limit) == (51.0, None)


def test_a_gpu_s_driver_tells_figures_without_a_library(tmp_path: Path) -> None:
    machine(tmp_path)
    write_gpu(
        tmp_path,
        "0000:03:00.0",
        AMD,
        {
            "mem_info_vram_total": "17163091968\n",
            "mem_info_vram_used": "163091968\n",
            "gpu_busy_percent": "37\n",
            "hwmon/hwmon4/temp1_input": "55000\n",
            "hwmon/hwmon4/temp2_input": "60000\n",
            "hwmon/hwmon4/temp2_crit": "110000\n",
            "hwmon/hwmon4/power1_average": "99000000\n",
        },
    )
    _, gpu = devices(DeviceWatch(tmp_path), 2)
    assert gpu == DeviceReading(
        device="gpu0",
        description="AMD GPU",
        address="0000:03:00.0",
        memory=17163091968,
        free=17_000_000_000,
        use=0.37,
        temperature=60.0,
        temperature_limit=110.0,
        power=99.0,
    )


def test_a_gpu_that_tells_nothing_is_left_out(tmp_path: Path) -> None:
    machine(tmp_path)
    write_gpu(tmp_path, "0000:00:02.0", INTEL)
    watch = DeviceWatch(tmp_path)
    devices(watch, 1)
    watch.wait(PATIENCE)
    assert [each.device for each in watch.latest()] == ["cpu"]


def test_gpus_of_all_vendors_are_numbered_by_their_place_on_the_bus(tmp_path: Path) -> None:
    machine(tmp_path)
    write_gpu(tmp_path, "0000:00:02.0", INTEL, {"hwmon/hwmon1/temp1_input": "40000\n"})
    write_gpu(tmp_path, "0000:03:00.0", AMD, {"gpu_busy_percent": "10\n", "hwmon/hwmon4/power1_average": "8000000\n"})
    write_gpu(tmp_path, "0000:3b:00.0", NVIDIA)
    nvidia = Driver([ScriptedGpu("0000:3b:00.0", "One")])
    amd = Driver([ScriptedGpu("0000:03:00.0", "Two", power=None)])
    watch = DeviceWatch(
        tmp_path, nvidia=NvidiaFigures(lambda: nvml(nvidia)).read, amd=AmdFigures(lambda: amdsmi(amd)).read
    )
    found = devices(watch, 4)
    assert [each.device for each in found] == ["cpu", "gpu0", "gpu1", "gpu2"]
    assert [each.description for each in found] == ["Scripted CPU", "Intel GPU", "Two", "One"]
    # The library's figures come first, and the kernel's where the library has none.
    assert (found[2].use, found[2].power) == (0.5, 8.0)


def test_a_gpu_that_is_not_on_the_bus_comes_last(tmp_path: Path) -> None:
    """As in the Windows subsystem for Linux."""
    watch = DeviceWatch(
        machine(tmp_path), nvidia=NvidiaFigures(lambda: nvml(Driver([ScriptedGpu("0000:01:00.0")]))).read
    )
    assert [each.device for each in devices(watch, 2)] == ["cpu", "gpu0"]


def test_a_library_that_hangs_costs_its_own_figures_alone(tmp_path: Path) -> None:
    machine(tmp_path)
    write_gpu(tmp_path, "0000:03:00.0", AMD, {"gpu_busy_percent": "10\n"})
    driver = Driver([ScriptedGpu("0000:3b:00.0")])
    driver.hang.clear()
    watch = DeviceWatch(tmp_path, nvidia=NvidiaFigures(lambda: nvml(driver)).read)
    try:
        assert [each.device for each in devices(watch, 2)] == ["cpu", "gpu0"]
        asyncio.run(watch.refresh())  # It has a bound.
        assert len(watch.latest()) == 2
    finally:
        driver.hang.set()


def test_this_machine_has_a_cpu_with_memory() -> None:
    watch = DeviceWatch()
    asyncio.run(watch.refresh())
    found = devices(watch, 1)[0]
    assert found.device == "cpu"
    assert found.memory is not None
    assert found.free is not None
    assert 0 < found.free <= found.memory


def test_another_machine_s_readings_are_bounded() -> None:
    found = bounded([DeviceReading(device="gpu0", address="x" * 10_000, description="y" * 10_000)] * 1000)
    assert len(found) == 32
    assert {(len(each.address), len(each.description)) for each in found} == {(80, 80)}
