"""The GPUs of this machine, and the GPU backends of the installed llama.cpp. It loads no driver and no library."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from tailrace import bundle

#: By PCI vendor: its name, and the llama.cpp backends for its GPUs.
VENDORS = {
    "0x10de": ("NVIDIA", ("cuda", "vulkan")),
    "0x1002": ("AMD", ("hip", "vulkan")),
    "0x8086": ("Intel", ("sycl", "vulkan")),
}
#: PCI display classes: VGA, 3D and other controllers.
DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380")


class Gpu(msgspec.Struct, frozen=True):
    """One GPU."""

    vendor: str
    name: str | None  #: None where the driver doesn't report it
    address: str  #: on the PCI bus
    memory: int | None  #: bytes; None where the driver doesn't report it
    node: int | None  #: the NUMA node that it is attached to, if known
    backends: tuple[str, ...]  #: llama.cpp backends that can use it


def read_gpus(root: Path = Path("/")) -> list[Gpu]:
    """GPUs of the vendors that llama.cpp supports, sorted by PCI address. macOS has no such list."""
    gpus = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        if not _text(device / "class").startswith(DISPLAY_CLASSES) or _text(device / "vendor") not in VENDORS:
            continue
        vendor, backends = VENDORS[_text(device / "vendor")]
        node, memory = _text(device / "numa_node"), _text(device / "mem_info_vram_total")
        gpus.append(
            Gpu(
                vendor=vendor,
                name=_nvidia_name(root / "proc/driver/nvidia/gpus" / device.name / "information"),
                address=device.name,
                memory=int(memory) if memory else None,
                node=int(node) if node and int(node) >= 0 else None,
                backends=backends,
            )
        )
    return gpus


def build_backends(package: Path | None = None) -> tuple[str, ...]:
    """The GPU backends of the installed llama.cpp, by the libraries in the binding's folder ``package``."""
    if package is None:
        bundle.expose_binding()
        spec = importlib.util.find_spec("llama_cpp")  # Finds the folder without running the package.
        if spec is None or not spec.submodule_search_locations:
            return ()
        package = Path(spec.submodule_search_locations[0])
    libraries = {path.name.split(".")[0].removeprefix("libggml-") for path in (package / "lib").glob("libggml-*")}
    return tuple(sorted(libraries & {"cuda", "hip", "vulkan", "sycl", "metal", "opencl", "musa", "cann"}))


def offloads(gpus: Sequence[Gpu], backends: Collection[str]) -> bool:
    """Whether llama.cpp can put layers on a GPU."""
    if sys.platform == "darwin":
        return "metal" in backends
    return any(backend in backends for gpu in gpus for backend in gpu.backends)


def _nvidia_name(information: Path) -> str | None:
    for line in _text(information).splitlines():
        name, _, value = line.partition(":")
        if name == "Model":
            return value.strip()
    return None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
