"""Machines that the table of placements is made for: GPUs of each usual size beside a CPU's memory."""

from __future__ import annotations

from tailrace.machine.placement.devices import Device

GB = 10**9
#: By a GPU's memory in GB: bytes that it reads in a second and multiplications that it does, as the cards' sheets say.
GPUS = {8: (270e9, 12e12), 12: (360e9, 20e12), 16: (450e9, 25e12), 24: (1000e9, 70e12), 80: (2000e9, 250e12)}
#: GB of each machine's memory, and of its GPUs'.
MACHINES: tuple[tuple[int, tuple[int, ...]], ...] = (
    (32, (8,)),
    (32, (12,)),
    (64, (16,)),
    (64, (24,)),
    (128, (24,)),
    (128, (24, 24)),
    (256, (80,)),
    (512, (24,)),
    (512, (24, 24)),
    (512, (80,)),
)


def machine(memory: int, gpus: tuple[int, ...]) -> list[Device]:
    """The devices of a machine with so many GB of memory and of each GPU's."""
    return [cpu(memory * GB), *(gpu(size, number=number) for number, size in enumerate(gpus))]


def cpu(free: int) -> Device:
    """A CPU with so many free bytes."""
    return Device(name="local", free=free, bandwidth=60e9, arithmetic=1e12, layer_seconds=20e-6)


def gpu(kind: int, *, number: int = 0, free: int | None = None) -> Device:
    """A GPU with the speed of the one with ``kind`` GB, and so many free bytes [its whole memory]."""
    bandwidth, arithmetic = GPUS[kind]
    return Device(
        name=f"CUDA{number}",
        free=kind * GB if free is None else free,
        bandwidth=bandwidth,
        arithmetic=arithmetic,
        layer_seconds=60e-6,
        link_bandwidth=12e9,
        link_seconds=15e-6,
        read_seconds=5e-6,
        write_seconds=5e-6,
        reads_whole_caches=True,
        copies_from=32,
    )
