"""GPUs of a recorded machine, and the GPU backends of an installed llama.cpp."""

from __future__ import annotations

from pathlib import Path

from recorded_machines import expand
from tailrace.machine.gpu import Gpu, build_backends, offloads, read_gpus


def test_gpus_by_their_pci_class_and_vendor(tmp_path: Path) -> None:
    gpus = read_gpus(expand("gpu-server", tmp_path))
    assert gpus == [
        Gpu("NVIDIA", "NVIDIA L40S", "0000:17:00.0", None, 1, ("cuda", "vulkan")),
        Gpu("AMD", None, "0000:83:00.0", 17_163_091_968, None, ("hip", "vulkan")),
    ]
    assert not offloads(gpus, ())
    assert not offloads(gpus, ("sycl",))
    assert offloads(gpus, ("cuda",))
    assert not offloads([], ("cuda",))


def test_backends_are_found_by_their_libraries(tmp_path: Path) -> None:
    for name in ("libggml-base.so.0.2", "libggml-cpu.so", "libggml-cuda.so", "libggml-vulkan.so.0", "libllama.so"):
        (tmp_path / "lib" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "lib" / name).touch()
    assert build_backends(tmp_path) == ("cuda", "vulkan")
