"""The figures of a GPU that its driver shows in Linux's sysfs: memory and use of amdgpu, sensors of most drivers.

Sources: the kernel's Documentation/gpu/amdgpu/driver-misc.rst and thermal.rst (mem_info_vram_*, gpu_busy_percent), and
hwmon's in ``sensors``.
"""

from __future__ import annotations

from pathlib import Path

from tailrace.device_figures.sensors import hottest, power
from tailrace.observe.kernel_file import read_number
from tailrace.worker_protocol.device_reading import DeviceReading


def read_gpu(device: str, address: str, root: Path = Path("/")) -> DeviceReading:
    """The GPU ``device`` at this PCI address now. What its driver doesn't show is None."""
    folder = root / "sys/bus/pci/devices" / address
    memory, used = read_number(folder / "mem_info_vram_total"), read_number(folder / "mem_info_vram_used")
    busy = read_number(folder / "gpu_busy_percent")
    monitors = sorted((folder / "hwmon").glob("hwmon*"))
    heat = hottest(monitors)
    return DeviceReading(
        device=device,
        address=address,
        memory=memory,
        free=None if memory is None or used is None else max(0, memory - used),
        use=None if busy is None or busy > 100 else busy / 100,
        temperature=heat.temperature,
        temperature_limit=heat.limit,
        power=power(monitors),
    )
