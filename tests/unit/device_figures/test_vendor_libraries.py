"""What NVML's and AMD SMI's answers become, and what their errors cost."""

from __future__ import annotations

import importlib

import pytest

from scripted_gpus import Driver, ScriptedError, ScriptedGpu, amdsmi, nvml
from tailrace.device_figures.amd import AmdFigures
from tailrace.device_figures.nvidia import NvidiaFigures, Nvml
from tailrace.worker_protocol.device_reading import DeviceReading

FIRST, SECOND = "0000:3b:00.0", "0001:af:00.0"
WHOLE = DeviceReading(
    device="",
    description="Scripted",
    address=FIRST,
    memory=24 << 30,
    free=20 << 30,
    use=0.5,
    temperature=61,
    temperature_limit=90,
    power=120.5,
)


def figures(kind: str, driver: Driver) -> NvidiaFigures | AmdFigures:
    return NvidiaFigures(lambda: nvml(driver)) if kind == "nvidia" else AmdFigures(lambda: amdsmi(driver))


@pytest.fixture(params=["nvidia", "amd"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_all_figures_of_each_gpu(kind: str) -> None:
    driver = Driver([ScriptedGpu(FIRST), ScriptedGpu(SECOND, used=0)])
    first, second = figures(kind, driver).read()
    assert first == WHOLE
    assert (second.address, second.free) == (SECOND, 24 << 30)


def test_a_figure_that_a_gpu_does_not_tell_is_missing(kind: str) -> None:
    gpu = ScriptedGpu(FIRST, memory=None, use=None, temperature=None, limit=None, power=None)
    (found,) = figures(kind, Driver([gpu])).read()
    assert found == DeviceReading(device="", description="Scripted", address=FIRST)


@pytest.mark.parametrize("temperature", [-200, 255])
def test_a_temperature_that_no_device_has_is_missing(kind: str, temperature: int) -> None:
    (found,) = figures(kind, Driver([ScriptedGpu(FIRST, temperature=temperature)])).read()
    assert found.temperature is None


def test_a_lost_gpu_costs_its_own_figures(kind: str) -> None:
    driver = Driver([ScriptedGpu(SECOND, lost=True), ScriptedGpu(FIRST)])
    assert figures(kind, driver).read() == [WHOLE]
    assert driver.starts == 1


def test_a_driver_that_was_loaded_again_is_found(kind: str) -> None:
    driver = Driver([ScriptedGpu(FIRST)])
    reader = figures(kind, driver)
    reader.read()
    driver.error = "Driver Not Loaded"
    for _ in range(3):
        with pytest.raises(ScriptedError, match="Driver Not Loaded"):
            reader.read()
    driver.error = ""
    assert reader.read() == [WHOLE]
    assert (driver.starts, driver.stops) == (2, 1)


def test_the_real_library_has_the_functions_that_are_used() -> None:
    library = importlib.import_module("pynvml")
    used = [name for name in vars(Nvml) if name.startswith("nvml")]
    assert len(used) > 8
    assert [name for name in used if not callable(getattr(library, name, None))] == []
    assert issubclass(library.NVMLError, Exception)
    assert (library.NVML_TEMPERATURE_GPU, library.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN) == (0, 1)


def test_the_real_library_is_asked() -> None:
    library = importlib.import_module("pynvml")
    try:
        found = NvidiaFigures().read()
    except library.NVMLError:
        return  # This machine has no NVIDIA driver. Any other error would be one of this code.
    assert all(each.address for each in found)
