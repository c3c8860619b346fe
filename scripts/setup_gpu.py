"""Which GPU llama.cpp is compiled for: ``make serve GPU=auto|cuda|hip|vulkan|none``.

Owns the look for a GPU and for the toolkit that compiles for it. Runs on the standard library alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from setup_pip import SetupError

#: It brings the toolkit that compiles into the wheel's key.
TOOLKIT_VARIABLE = "TAILRACE_GPU_TOOLKIT"
CHOICES = ("auto", "cuda", "hip", "vulkan", "none")
#: PCI display classes: VGA, 3D and other controllers.
DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380")


@dataclass(frozen=True)
class Toolkit:
    """What compiles llama.cpp for one kind of GPU."""

    name: str
    option: str  #: of CMake
    program: str  #: that has to be there
    folders: tuple[str, ...]  #: beside PATH where it may be
    headers: tuple[str, ...]  #: of C that have to be there, below a folder ``include``; none: the program has its own
    sdk: str  #: the variable of the environment that names another folder with ``bin`` and ``include``; empty: none
    variable: str  #: of the environment, by which CMake finds the program; empty: it looks by itself
    minimum: tuple[int, ...]  #: the oldest version that llama.cpp compiles with; empty: any
    packages: Mapping[str, str]  #: by distribution


TOOLKITS = {
    "cuda": Toolkit(
        name="CUDA toolkit",
        option="-DGGML_CUDA=ON",
        program="nvcc",
        folders=("usr/local/cuda/bin", "opt/cuda/bin"),
        headers=(),
        sdk="",
        variable="CUDACXX",
        minimum=(),
        packages={
            "Debian": "sudo apt install nvidia-cuda-toolkit (it is in non-free)",
            "Ubuntu": "sudo apt install nvidia-cuda-toolkit",
            "Fedora": "sudo dnf install cuda-toolkit (from NVIDIA's repository: "
            "https://developer.nvidia.com/cuda-downloads)",
            "Arch": "sudo pacman -S cuda",
        },
    ),
    "hip": Toolkit(
        name="ROCm's HIP compiler",
        option="-DGGML_HIP=ON",
        program="hipcc",
        folders=("opt/rocm/bin",),
        headers=(),
        sdk="",
        variable="",
        minimum=(6, 1),
        packages={
            "Debian, Ubuntu": "sudo apt install rocm-hip-sdk (from AMD's repository: "
            "https://rocm.docs.amd.com/projects/install-on-linux; the distribution's own is too old)",
            "Fedora": "sudo dnf install rocm-hip-devel hipblas-devel rocblas-devel",
            "Arch": "sudo pacman -S rocm-hip-sdk",
        },
    ),
    "vulkan": Toolkit(
        name="Vulkan SDK",
        option="-DGGML_VULKAN=ON",
        program="glslc",
        folders=(),
        headers=("vulkan/vulkan_core.h", "spirv/unified1/spirv.hpp"),
        sdk="VULKAN_SDK",
        variable="",
        # It is the first with VK_EXT_layer_settings.
        minimum=(1, 3, 272),
        packages={
            "Debian 13, Ubuntu 24.04 and later": "sudo apt install libvulkan-dev glslc spirv-headers",
            "Fedora": "sudo dnf install vulkan-headers vulkan-loader-devel glslc spirv-headers-devel",
            "Arch": "sudo pacman -S vulkan-headers vulkan-icd-loader shaderc spirv-headers",
            "others": "the SDK from https://vulkan.lunarg.com, whose setup-env.sh sets VULKAN_SDK",
        },
    ),
}
_VERSION = re.compile(r"(?:HIP version: |release )(\d+)\.(\d+)")
_VULKAN_VERSION = re.compile(r"VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(0, (\d+), (\d+),")
_VULKAN_PATCH = re.compile(r"define VK_HEADER_VERSION (\d+)")
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
    name: str = "none"  #: of CHOICES
    variables: Mapping[str, str] = field(default_factory=dict)  #: for the environment of the build
    folder: str = ""  #: of the toolkit's programs, for PATH
    toolkit: str = ""  #: what the toolkit says of its version
    notes: tuple[str, ...] = ()  #: for the user

    def in_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """``environment`` with what the build needs."""
        path = environment.get("PATH", os.defpath)
        folders = path.split(os.pathsep)
        paths = {"PATH": path if not self.folder or self.folder in folders else f"{path}{os.pathsep}{self.folder}"}
        return {**environment, **paths, **self.variables, TOOLKIT_VARIABLE: self.toolkit}

    @property
    def facts(self) -> dict[str, object]:
        """What setup remembers of it."""
        return {name: value for name, value in asdict(self).items() if name != "notes"}


def choose_gpu(choice: str, environment: Mapping[str, str], root: Path = Path("/")) -> GpuBuild:
    """The build for a ``choice`` of CHOICES. Raises SetupError where the toolkit of a named one isn't there.

    ``root``: where the system's folders are.
    """
    if choice not in CHOICES:
        raise SetupError(f"GPU is {choice or 'empty'}: write one of {', '.join(CHOICES)}, as in make serve GPU=auto")
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
    path = environment.get("PATH", os.defpath)
    sdk = environment.get(toolkit.sdk, "") if toolkit.sdk else ""
    folders = [path, *(str(root / place) for place in toolkit.folders)]
    includes = [root / "usr/include", root / "usr/local/include"]
    if sdk:
        folders.insert(0, str(Path(sdk) / "bin"))
        includes.insert(0, Path(sdk) / "include")
    named = environment.get(toolkit.variable, "") if toolkit.variable else ""
    program = shutil.which(named or toolkit.program, path=os.pathsep.join(folders))
    headers = {name: _first(includes, name) for name in toolkit.headers}
    lacks = [] if program else [named or toolkit.program]
    lacks += [name for name, found in headers.items() if found is None]
    if lacks or program is None:
        return _to_install(toolkit, f"the {toolkit.name} isn't here ({' and '.join(lacks)} can't be found)")
    text, version = _version_of(toolkit, program, headers)
    if version and version < toolkit.minimum:
        have, need = (".".join(map(str, each)) for each in (version, toolkit.minimum))
        return _to_install(toolkit, f"the {toolkit.name} here is too old: {have}, and llama.cpp needs {need}")
    variables = {toolkit.variable: program} if toolkit.variable else {}
    name = next(name for name, each in TOOLKITS.items() if each is toolkit)
    return GpuBuild(toolkit.option, name, variables, folder=str(Path(program).parent), toolkit=text)


def _to_install(toolkit: Toolkit, why: str) -> str:
    width = max(map(len, toolkit.packages)) + 1
    ways = "\n".join(f"  {name + ':':{width}} {how}" for name, how in toolkit.packages.items())
    return f"{why}. Install it and run this again:\n{ways}"


def _first(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _version_of(toolkit: Toolkit, program: str, headers: Mapping[str, Path | None]) -> tuple[str, tuple[int, ...]]:
    """What the toolkit says of its version, and the version; empty where it isn't known."""
    core = headers.get("vulkan/vulkan_core.h")
    if core is not None:
        text = core.read_text(encoding="utf-8", errors="replace")
        major, patch = _VULKAN_VERSION.search(text), _VULKAN_PATCH.search(text)
        version = (int(major[1]), int(major[2]), int(patch[1])) if major and patch else ()
        return f"{toolkit.name} {version}", version
    try:
        output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return "", ()
    found = _VERSION.search(output)
    return output, (int(found[1]), int(found[2])) if found else ()


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
