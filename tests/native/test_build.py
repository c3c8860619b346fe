"""The kernels' library is built once and proved, or there is a reason why not."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from kernel_tiers import TIERS
from tailrace.engine.kernels import build, proofs
from tailrace.engine.native_libs import NativeUnavailable, UnsupportedCpu, tiers
from tailrace.engine.native_libs.library import ensure_built
from tailrace.engine.native_libs.tiers import TierName


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("tier", build.KERNEL_TIERS)
def test_each_tier_is_right_or_the_cpu_lacks_something(tmp_path: Path, tier: TierName) -> None:
    if tier not in TIERS:
        with pytest.raises(NativeUnavailable, match="this CPU lacks"):
            build.build_kernels(tier, tmp_path)
        return
    library = build.build_kernels(tier, tmp_path)
    loaded = ctypes.CDLL(str(library))
    loaded.tailrace_kernels_amx_usable.restype = ctypes.c_bool
    assert loaded.tailrace_kernels_amx_usable() == (tier == "amx")
    assert proofs.wrong_results(loaded) == []
    made = library.stat().st_ino
    assert build.build_kernels(tier, tmp_path) == library
    assert library.stat().st_ino == made
    assert set(tmp_path.iterdir()) == {library, library.with_suffix(".json")}


def test_the_tests_share_no_state_with_an_engine_in_this_process(library: ctypes.CDLL) -> None:
    """An engine's thread pools take entries of the barriers' table, and its functions stay set."""
    servers = [ctypes.CDLL(str(build.build_kernels(tier)))._handle for tier in TIERS]
    assert library._handle not in servers


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.skipif(not tiers.TIERS["avx512-vnni"].supported, reason="this CPU has no VNNI of AVX-512")
def test_the_code_for_avx_vnni_is_right_with_the_same_instructions_of_avx512(tmp_path: Path) -> None:
    """AVX-VNNI is AVX-512's VNNI in another encoding. So CPUs that have only the latter can prove the code."""
    avx2 = tiers.TIERS["avx2"]
    flags = (*avx2.compiler_flags, "-mavx512vnni", "-mavx512vl", "-DONLY_AVX2")
    tier = tiers.Tier("avx2-vnni", tiers.TIERS["avx512-vnni"].cpu_flags, flags)
    library = ensure_built(build.source(), tier, tmp_path)
    found = ctypes.CDLL(str(library))
    assert proofs.wrong_results(found) == []
    assert "vpdpbusd" in subprocess.run(["objdump", "-d", library], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU of the lowest tier, whatever this one is."""
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: tiers.TIERS["avx512-vnni"].cpu_flags)


@pytest.mark.usefixtures("any_cpu")
def test_without_a_compiler_there_are_no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(NativeUnavailable, match="no C compiler"):
        build.build_kernels("avx512-vnni", tmp_path / "kept")


@pytest.mark.usefixtures("any_cpu")
def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file_order.c").write_text("#error no good\n", encoding="utf-8")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    with pytest.raises(NativeUnavailable, match="no good"):
        build.build_kernels("avx512-vnni", tmp_path / "kept")


def test_a_cpu_without_the_instructions_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = tiers.TIERS["avx512-vnni"].cpu_flags - {"avx512_vnni", "f16c"}
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: flags)
    with pytest.raises(UnsupportedCpu, match="this CPU lacks avx512_vnni, f16c"):
        build.build_kernels("avx512-vnni", tmp_path)
