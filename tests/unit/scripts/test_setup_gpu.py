"""scripts/setup_gpu.py: which GPU llama.cpp is compiled for, and what follows where that fails."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import setup
import setup_gpu
from setup import EngineFailed
from setup_gpu import choose_gpu
from setup_pip import SetupError
from tailrace.machine import gpu as machine_gpu

ROOT = Path(__file__).parents[3]


def gpu(root: Path, vendor: str, kind: str = "0x030000") -> None:
    device = root / "sys/bus/pci/devices" / f"0000:0{len(vendor)}:{vendor[-2:]}.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n", encoding="ascii")
    (device / "class").write_text(f"{kind}\n", encoding="ascii")


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    path.chmod(0o755)
    return path


def vulkan_headers(root: Path, patch: int = 275) -> None:
    """The headers of Vulkan 1.3, as distributions install them."""
    for name, text in (
        ("vulkan/vulkan_core.h", f"#define VK_HEADER_VERSION {patch}\n{_COMPLETE}"),
        ("spirv/unified1/spirv.hpp", ""),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


_COMPLETE = "#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)\n"


def test_without_a_gpu_the_build_is_for_the_cpu(tmp_path: Path) -> None:
    gpu(tmp_path, "0x1234")
    gpu(tmp_path, "0x8086", kind="0x020000")  # A network card.
    found = choose_gpu("auto", {"PATH": ""}, tmp_path)
    assert found.option == ""
    assert "no GPU" in found.notes[0]
    assert choose_gpu("none", {}, tmp_path).notes == ()


@pytest.mark.parametrize(
    ("vendor", "tool", "option"),
    [
        ("0x10de", "nvcc", "-DGGML_CUDA=ON"),
        ("0x1002", "hipcc", "-DGGML_HIP=ON"),
        ("0x8086", "glslc", "-DGGML_VULKAN=ON"),
    ],
)
def test_a_gpu_gets_its_toolkit(tmp_path: Path, vendor: str, tool: str, option: str) -> None:
    gpu(tmp_path, vendor)
    path = program(tmp_path / "bin", tool)
    vulkan_headers(tmp_path / "usr/include")
    found = choose_gpu("auto", {"PATH": str(path.parent)}, tmp_path)
    assert found.option == option
    assert found.notes == ()


def test_nvcc_is_found_where_nvidia_puts_it(tmp_path: Path) -> None:
    path = program(tmp_path / "usr/local/cuda/bin", "nvcc")
    found = choose_gpu("cuda", {"PATH": "/nowhere"}, tmp_path)
    assert found.variables["CUDACXX"] == str(path)
    assert found.in_environment({"PATH": "/nowhere"})["PATH"] == f"/nowhere:{path.parent}"
    assert found.in_environment({"PATH": f"{path.parent}:/a"})["PATH"] == f"{path.parent}:/a"


def test_the_next_toolkit_is_taken_where_the_first_is_missing(tmp_path: Path) -> None:
    gpu(tmp_path, "0x10de")
    program(tmp_path / "bin", "glslc")
    vulkan_headers(tmp_path / "usr/include")
    assert choose_gpu("auto", {"PATH": str(tmp_path / "bin")}, tmp_path).option == "-DGGML_VULKAN=ON"


@pytest.mark.parametrize(
    ("choice", "packages"),
    [
        ("cuda", ["apt install nvidia-cuda-toolkit", "dnf install cuda-toolkit", "pacman -S cuda"]),
        ("hip", ["apt install rocm-hip-sdk", "dnf install rocm-hip-devel", "pacman -S rocm-hip-sdk"]),
        (
            "vulkan",
            ["apt install libvulkan-dev glslc", "dnf install vulkan-headers vulkan-loader-devel", "pacman -S vulkan-h"],
        ),
    ],
)
def test_a_missing_toolkit_is_told_with_package_names(tmp_path: Path, choice: str, packages: list[str]) -> None:
    with pytest.raises(SetupError) as caught:
        choose_gpu(choice, {"PATH": ""}, tmp_path)
    for each in packages:
        assert each in str(caught.value)


def test_with_auto_a_missing_toolkit_is_a_warning(tmp_path: Path) -> None:
    gpu(tmp_path, "0x10de")
    found = choose_gpu("auto", {"PATH": ""}, tmp_path)
    assert found.option == ""
    assert "NVIDIA" in found.notes[0]
    assert "nvidia-cuda-toolkit" in found.notes[0]


@pytest.mark.parametrize("choice", ["typo", "", "CUDA"])
def test_another_word_is_refused_with_the_choices(choice: str) -> None:
    command = [sys.executable, str(ROOT / "scripts/setup.py"), "--gpu", choice]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"GPU is {choice or 'empty'}: write one of auto, cuda, hip, vulkan, none" in done.stderr


def test_headers_of_vulkan_that_are_too_old_are_told_before_the_compile(tmp_path: Path) -> None:
    program(tmp_path / "bin", "glslc")
    vulkan_headers(tmp_path / "usr/include", patch=239)  # Debian 12's.
    with pytest.raises(SetupError, match=r"too old: 1\.3\.239, and llama\.cpp needs 1\.3\.272") as caught:
        choose_gpu("vulkan", {"PATH": str(tmp_path / "bin")}, tmp_path)
    assert "VULKAN_SDK" in str(caught.value)


def test_the_vulkan_sdk_is_used_before_the_distributions(tmp_path: Path) -> None:
    vulkan_headers(tmp_path / "usr/include", patch=239)
    vulkan_headers(tmp_path / "sdk/include", patch=304)
    glslc = program(tmp_path / "sdk/bin", "glslc")
    found = choose_gpu("vulkan", {"PATH": "/nowhere", "VULKAN_SDK": str(tmp_path / "sdk")}, tmp_path)
    assert found.folder == str(glslc.parent)
    assert "(1, 3, 304)" in found.toolkit


@pytest.mark.parametrize(("version", "fits"), [("5.7.31", False), ("6.0.2", False), ("6.1.0", True), ("7.0.1", True)])
def test_a_rocm_that_is_too_old_is_told_before_the_compile(tmp_path: Path, version: str, fits: bool) -> None:
    hipcc = program(tmp_path / "opt/rocm/bin", "hipcc")
    hipcc.write_text(f"#!/bin/sh\necho 'HIP version: {version}-0'\n", encoding="ascii")
    if fits:
        assert version in choose_gpu("hip", {"PATH": "/nowhere"}, tmp_path).toolkit
    else:
        with pytest.raises(SetupError, match="too old"):
            choose_gpu("hip", {"PATH": "/nowhere"}, tmp_path)


class Made:
    """Plays ``make_ready``: builds with ``-DGGML_CUDA=ON`` fail while ``fails`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.args: list[str] = []
        self.fails: type[SetupError] | None = EngineFailed
        self.nvcc = program(folder / "bin", "nvcc")
        monkeypatch.setattr(setup, "STAMP", folder / "stamp.json")
        monkeypatch.setattr(setup, "PYTHON", Path(sys.executable))
        monkeypatch.setattr(setup, "make_ready", self._make_ready)

    def _make_ready(self, args: str, options: argparse.Namespace, environment: dict[str, str]) -> None:
        self.args.append(args)
        self.environment = environment
        if "CUDA" in args:
            assert environment["CUDACXX"] == str(self.nvcc)
            assert environment["PATH"].split(":")[-1] == str(self.nvcc.parent)
        if "CUDA" in args and self.fails is not None:
            raise self.fails("nvcc doesn't work")
        setup.write_stamp({**setup.read_stamp(), "cmake_args": args})

    def run(self, gpu: str | None, *, rebuild: bool = False, **environment: str) -> list[str]:
        self.args.clear()
        options = argparse.Namespace(dev=False, smoke=True, rebuild=rebuild, gpu=gpu)
        path = str(self.nvcc.parent) if gpu is not None else "/nowhere"
        setup.run(options, {"PATH": path, **environment})
        return list(self.args)


def test_a_build_that_fails_is_replaced_by_the_cpus_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(monkeypatch, tmp_path)
    assert made.run("cuda") == ["-DGGML_CUDA=ON", ""]
    told = capsys.readouterr().out
    assert "WARNING: the build with -DGGML_CUDA=ON failed:\nnvcc doesn't work" in told
    assert "going back to llama.cpp for the CPU" in told
    assert made.run("cuda") == [""]
    assert "failed before" in capsys.readouterr().out
    assert made.run(None) == [""], "a plain run stays with the CPU"
    assert made.run("cuda", rebuild=True) == ["-DGGML_CUDA=ON", ""]
    made.fails = None
    assert made.run("cuda", rebuild=True, CMAKE_ARGS="-DA=1") == ["-DA=1 -DGGML_CUDA=ON"]
    assert made.run(None) == ["-DA=1 -DGGML_CUDA=ON"], "it is remembered, with the compiler that isn't in PATH"
    made.fails = EngineFailed
    assert made.run(None) == ["-DA=1 -DGGML_CUDA=ON", "-DA=1"], "another llama.cpp may not compile for the GPU"
    assert made.run(None) == ["-DA=1"]
    made.fails = None
    assert made.run("cuda", rebuild=True) == ["-DGGML_CUDA=ON"]
    assert made.run(None, CMAKE_ARGS="-DB=1") == ["-DB=1"], "the user's own word counts"
    assert made.run("cuda") == ["-DGGML_CUDA=ON"]
    assert made.run("none") == [""]


def test_a_network_that_fails_says_nothing_of_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(monkeypatch, tmp_path)
    made.fails = SetupError
    with pytest.raises(SetupError, match="doesn't work"):
        made.run("cuda")
    assert "gpu_failed" not in setup.read_stamp()


@pytest.mark.parametrize(("words", "flag"), [(["GPU=auto"], ' --gpu "auto"'), ([], "")])
def test_make_passes_on_what_its_command_line_says(words: list[str], flag: str) -> None:
    make = shutil.which("make")
    assert make is not None
    command = [make, "--dry-run", "setup", *words]
    environment = {"GPU": "0", "PATH": "/usr/bin:/bin"}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == f"python3 scripts/setup.py --smoke{flag}"


def test_set_up_and_server_know_the_same_gpus() -> None:
    """Set-up imports nothing of the package, so both have these tables."""
    assert setup_gpu.DISPLAY_CLASSES == machine_gpu.DISPLAY_CLASSES
    assert setup_gpu.VENDORS.keys() == machine_gpu.VENDORS.keys()
    for vendor, (name, toolkits) in setup_gpu.VENDORS.items():
        assert machine_gpu.VENDORS[vendor][0] == name
        assert set(toolkits) <= set(machine_gpu.VENDORS[vendor][1])


def test_a_wheel_for_a_gpu_is_refused() -> None:
    make = shutil.which("make")
    assert make is not None
    command = [make, "--dry-run", "wheel", "GPU=cuda"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "A wheel is for CPUs alone" in done.stderr


def test_a_second_setup_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    monkeypatch.setattr(setup, "say", lambda text: told.set())
    order: list[str] = []

    def second() -> None:
        with setup.only_one():
            order.append("second")

    thread = threading.Thread(target=second)
    with setup.only_one():
        thread.start()
        assert told.wait(60)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
