"""Numbers of devices that nothing has measured. They decide a first placement; each is named as assumed."""

from __future__ import annotations

from typing import Literal

from tailrace.machine.placement.devices import Device

#: A CPU and a GPU of this machine, and a worker's of either kind.
DeviceKind = Literal["cpu", "gpu", "worker cpu", "worker gpu"]

#: Two channels of DDR5, and eight cores' worth of AVX2.
_CPU = {"bandwidth": 50e9, "arithmetic": 0.5e12, "layer_seconds": 20e-6}
#: A GPU of the middle class.
_GPU = {"bandwidth": 400e9, "arithmetic": 20e12, "layer_seconds": 60e-6}
#: PCI Express 4.0 with 8 lanes.
_BUS = {"link_bandwidth": 12e9, "link_seconds": 15e-6, "read_seconds": 5e-6, "write_seconds": 5e-6}
#: Gigabit Ethernet, with the two messages of llama.cpp's protocol.
_NETWORK = {"link_bandwidth": 110e6, "link_seconds": 300e-6, "read_seconds": 150e-6, "write_seconds": 50e-6}

_NUMBERS: dict[DeviceKind, dict[str, float]] = {
    "cpu": _CPU,
    "gpu": _GPU | _BUS,
    "worker cpu": _CPU | _NETWORK,
    "worker gpu": _GPU | _NETWORK,
}
#: Tokens from which llama.cpp has GPUs of this machine compute with the CPU's weights (``offload_op`` of its backends).
_COPIES_FROM = 32
#: Parts of a device's free memory that a plan leaves: for other processes, and for what llama.cpp allocates beside.
_RESERVED_PART, _MAX_RESERVED = 0.1, 1 << 30


def device_of(name: str, kind: DeviceKind, free: int, **measured: float) -> Device:
    """The device with its ``measured`` numbers (fields of Device), and assumed ones where nothing is measured.

    ``free``: bytes that it reports; a plan leaves some of them.
    """
    assumed = {field: value for field, value in _NUMBERS[kind].items() if field not in measured}
    return Device(
        name=name,
        free=usable(free),
        # llama.cpp's kernels of GPUs read cells and their mask alike.
        reads_whole_caches=kind.endswith("gpu"),
        copies_from=_COPIES_FROM if kind == "gpu" else 0,
        assumed=tuple(assumed),
        **assumed,
        **measured,
    )


def usable(free: int) -> int:
    """Bytes of a device's free memory that a plan may use. More free memory is never less usable."""
    return max(0, free - min(int(free * _RESERVED_PART), _MAX_RESERVED))
