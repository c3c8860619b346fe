"""Which of a wheel's libraries of llama.cpp is loaded: the fastest that the CPU has."""

from __future__ import annotations

from importlib import util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tailrace.engine.kernels import loader
from tailrace.engine.native_libs import NativeUnavailable, tiers
from tailrace.engine.native_libs.tiers import TIERS

FOLDERS = ("lib", "lib/avx2", "lib/avx2-vnni", "lib/avx512-vnni", "lib/amx")


@pytest.mark.parametrize(
    ("tier", "folder"),
    [
        (None, "lib"),
        ("avx2", "lib/avx2"),
        ("avx2-vnni", "lib/avx2-vnni"),
        ("avx512", "lib/avx2"),
        ("avx512-vnni", "lib/avx512-vnni"),
        ("amx", "lib/amx"),
    ],
)
def test_the_fastest_tier_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: tiers.TierName | None, folder: str
) -> None:
    for each in FOLDERS:
        (tmp_path / each).mkdir(parents=True, exist_ok=True)
        (tmp_path / each / "libggml-cpu.so").touch()
    found = ModuleSpec("llama_cpp", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(util, "find_spec", lambda name: found)
    flags = frozenset[str]() if tier is None else TIERS[tier].cpu_flags
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: flags)
    assert loader.ggml_library() == tmp_path / folder / "libggml-cpu.so"


def test_a_binding_without_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ModuleSpec("llama_cpp", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(util, "find_spec", lambda name: found)
    with pytest.raises(NativeUnavailable, match=r"libggml-cpu\.so doesn't exist"):
        loader.ggml_library()
