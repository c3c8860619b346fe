"""Which GPU llama.cpp is compiled for: ``make serve GPU=auto|cuda|hip|vulkan|none``.

Owns the look for a GPU and for the toolkit that compiles for it. Runs on the standard library alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from setup_pip import SetupError

CHOICES = ("auto", "cuda", "hip", "vulkan", "none")
#: PCI display classes: VGA, 3D and other controllers.
DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380")


@dataclass(frozen=True)
class Toolkit:
    """What compiles llama.cpp for one kind of GPU."""

    name: str
    option: str  #: of CMake
    program: str  #: that has to be there
    places: tuple[str, ...]  #: folders beside PATH where it may be
    header: str  #: of C that has to be there, below /usr/include; empty: the program brings its own
    variable: str  #: of the environment, by which CMake finds the program; empty: it looks by itself
    debian: str  #: package names
    fedora: str


TOOLKITS = {
    "cuda": Toolkit(
        name="CUDA toolkit",
        option="-DGGML_CUDA=ON",
        program="nvcc",
        places=("usr/local/cuda/bin", "opt/cuda/bin"),
        header="",
        variable="CUDACXX",
        debian="nvidia-cuda-toolkit",
        fedora="cuda-toolkit (from NVIDIA's repository: https://developer.nvidia.com/cuda-downloads)",
    ),
    "hip": Toolkit(
        name="ROCm's HIP compiler",
        option="-DGGML_HIP=ON",
        program="hipcc",
        places=("opt/rocm/bin",),
        header="",
        variable="",
        debian="hipcc libamdhip64-dev libhipblas-dev librocblas-dev",
        fedora="rocm-hip-devel hipblas-devel rocblas-devel",
    ),
    "vulkan": Toolkit(
        name="Vulkan SDK",
        option="-DGGML_VULKAN=ON",
        program="glslc",
        places=(),
        header="vulkan/vulkan.h",
        variable="",
        debian="libvulkan-dev glslc spirv-headers",
        fedora="vulkan-loader-devel glslc spirv-headers-devel",
    ),
}
#: By PCI vendor: the name, and the toolkits for its GPUs, the fastest first.
VENDORS = {
    "0x10de": ("NVIDIA", ("cuda", "vulkan")),
    "0x1002": ("AMD", ("hip", "vulkan")),
    "0x8086": ("Intel", ("vulkan",)),
}


@dataclass(frozen=True)
class GpuBuild:
    """What is compiled for: ``option`` is CMake's, empty for the CPU alone."""

    option: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)  #: for the environment of the build
    notes: tuple[str, ...] = ()  #: for the user


def choose_gpu(choice: str, environment: Mapping[str, str], root: Path = Path("/")) -> GpuBuild:
    """The build for a ``choice`` of CHOICES. Raises SetupError where the toolkit of a named one isn't there.

    ``root``: where the system's folders are.
    """
    if choice not in CHOICES:
        raise SetupError(f"GPU is {choice}: write one of {', '.join(CHOICES)}")
    if choice == "none":
        return GpuBuild()
    if choice != "auto":
        found = _find(TOOLKITS[choice], environment, root)
        if isinstance(found, str):
            raise SetupError(found)
        return found
    vendors = _vendors(root)
    if not vendors:
        return GpuBuild(notes=("there is no GPU of NVIDIA, AMD or Intel here: llama.cpp is compiled for the CPU",))
    missing: list[str] = []
    for name in dict.fromkeys(each for vendor in vendors for each in VENDORS[vendor][1]):
        found = _find(TOOLKITS[name], environment, root)
        if not isinstance(found, str):
            return found
        missing.append(found)
    gpus = " and ".join(VENDORS[vendor][0] for vendor in vendors)
    return GpuBuild(notes=(f"WARNING: the GPU ({gpus}) isn't used: {missing[0]}",))


def _find(toolkit: Toolkit, environment: Mapping[str, str], root: Path) -> GpuBuild | str:
    """The build with this toolkit, or what is missing and how to install it."""
    folders = [environment.get("PATH", os.defpath), *(str(root / place) for place in toolkit.places)]
    named = environment.get(toolkit.variable, "") if toolkit.variable else ""
    program = shutil.which(named or toolkit.program, path=os.pathsep.join(folders))
    header = root / "usr/include" / toolkit.header
    lacks = [] if program else [toolkit.program]
    if toolkit.header and "VULKAN_SDK" not in environment and not header.is_file():
        lacks.append(toolkit.header)
    if lacks or program is None:
        return (
            f"the {toolkit.name} isn't here ({' and '.join(lacks)} can't be found). Install it and run this again:\n"
            f"  Debian, Ubuntu: sudo apt install {toolkit.debian}\n"
            f"  Fedora:         sudo dnf install {toolkit.fedora}"
        )
    path = os.pathsep.join((environment.get("PATH", os.defpath), str(Path(program).parent)))
    variables = {"PATH": path} | ({toolkit.variable: program} if toolkit.variable else {})
    return GpuBuild(toolkit.option, variables)


def _vendors(root: Path) -> list[str]:
    """The PCI vendors of this machine's GPUs."""
    found = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor = _text(device / "vendor")
        if vendor in VENDORS and _text(device / "class").startswith(DISPLAY_CLASSES) and vendor not in found:
            found.append(vendor)
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
