"""The report on kernels: which tier is used, why the others aren't, and proofs that fail."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from tailrace.engine.kernels import kernel_report
from tailrace.engine.kernels.kernel_report import report_kernels
from tailrace.engine.native_libs import NativeUnavailable, tiers
from tailrace.engine.native_libs.compiler import find_compiler
from tailrace.engine.native_libs.library import Source, ensure_built
from tailrace.engine.native_libs.tiers import TIERS, TierName

AMX, VNNI, AVX2 = (TIERS[tier].cpu_flags for tier in ("amx", "avx512-vnni", "avx2"))
AVX2_VNNI = TIERS["avx2-vnni"].cpu_flags


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library of any tier, with a table of one format and one of two types of the KV cache."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "formats.c").write_text(
        '__attribute__((visibility("default"))) _Bool tailrace_kernels_format(int index, int out[8]) {\n'
        "    const int q4_1[8] = {3, 20, 32, 9, 1, 1, 0, 2};\n"
        "    for (int i = 0; i < 8; i++) out[i] = q4_1[i];\n"
        "    return index == 0;\n}\n"
        '__attribute__((visibility("default"))) int tailrace_kernels_cache_type(int index) {\n'
        "    return index == 0 ? 1 : index == 1 ? 8 : -1;\n}\n",
        encoding="utf-8",
    )
    return ensure_built(Source("x", tmp_path / "source", lambda _: []), TIERS["any"], tmp_path / "cache")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, library: Path) -> list[TierName]:
    """The tiers that the report has had built. Every proof is right."""
    asked: list[TierName] = []

    def build(tier: TierName, *, again: bool) -> Path:
        asked.append(tier)
        return library

    monkeypatch.setattr(kernel_report, "build_kernels", build)
    monkeypatch.setattr(kernel_report, "prove_kernels", lambda _: [])
    return asked


def set_cpu(monkeypatch: pytest.MonkeyPatch, flags: frozenset[str]) -> None:
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: flags)


@pytest.mark.parametrize(
    ("flags", "choice", "states", "reason"),
    [
        (AMX | AVX2_VNNI, "on", ["used", "not used", "not used", "not used"], "amx is faster"),
        (AMX, "on", ["used", "not used", "unavailable", "not used"], "this CPU lacks avx_vnni"),
        (AMX, "avx512", ["not used", "used", "unavailable", "not used"], "the setting kernels is avx512"),
        (AMX | AVX2_VNNI, "avx2", ["not used", "not used", "used", "not used"], "the setting kernels is avx2"),
        (AMX, "avx2", ["not used", "not used", "unavailable", "used"], "the setting kernels is avx2"),
        (AMX, "off", ["not used", "not used", "unavailable", "not used"], "the setting kernels is off"),
        (VNNI, "on", ["unavailable", "used", "unavailable", "not used"], "this CPU lacks amx_bf16, amx_int8, amx_tile"),
        (AVX2_VNNI, "on", ["unavailable", "unavailable", "used", "not used"], "avx2-vnni is faster"),
        (AVX2, "on", ["unavailable", "unavailable", "unavailable", "used"], "avx512_vnni"),
        (AVX2, "avx512", ["unavailable", "unavailable", "unavailable", "not used"], "the setting kernels is avx512"),
        (frozenset[str](), "on", ["unavailable"] * 4, "this CPU lacks abm, avx2"),
    ],
)
def test_the_fastest_tier_that_may_be_used_is(
    monkeypatch: pytest.MonkeyPatch,
    built: list[TierName],
    flags: frozenset[str],
    choice: str,
    states: list[str],
    reason: str,
) -> None:
    set_cpu(monkeypatch, flags)
    found = report_kernels(choice)
    assert [each.state for each in found.libraries] == states
    assert any(reason in each.reason for each in found.libraries if each.state != "used")
    used = [each.tier for each in found.libraries if each.state == "used"]
    assert built == used
    compiler = find_compiler().version.splitlines()[0]
    assert all(each.reason.startswith(f"{compiler}; proved ") for each in found.libraries if each.state == "used")
    assert (found.formats, found.repacked) == ((["Q4_1"], ["Q4_1"]) if used else ([], []))
    assert found.cache_types == (["f16", "q8_0"] if used else [])


def test_a_tier_that_can_not_be_built_leaves_the_next(
    monkeypatch: pytest.MonkeyPatch, built: list[TierName], library: Path
) -> None:
    set_cpu(monkeypatch, AMX)

    def build(tier: TierName, *, again: bool) -> Path:
        if tier == "amx":
            raise NativeUnavailable("static assertion failed: ggml_tensor is larger")
        return library

    monkeypatch.setattr(kernel_report, "build_kernels", build)
    first, second, *_ = report_kernels("on").libraries
    assert (first.state, first.reason) == ("unavailable", "static assertion failed: ggml_tensor is larger")
    assert second.state == "used"


def test_proofs_are_repeated_for_every_tier_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, built: list[TierName], library: Path
) -> None:
    set_cpu(monkeypatch, AMX)
    proved: list[str] = []

    def prove(loaded: ctypes.CDLL) -> list[str]:
        proved.append(loaded._name)
        return ["Q4_0", "attention"] if len(proved) == 2 else []

    monkeypatch.setattr(kernel_report, "prove_kernels", prove)
    first, second, _, last = report_kernels("off", prove=True).libraries
    assert proved == [str(library)] * 3
    assert built == ["amx", "avx512-vnni", "avx2"]
    assert first.state == "not used"
    assert first.reason.endswith("; proved again now")
    assert second.state == "wrong"
    assert "computes Q4_0, attention wrongly" in second.reason
    assert last.state == "not used"


def test_an_unknown_llama_cpp_is_named(monkeypatch: pytest.MonkeyPatch, built: list[TierName]) -> None:
    set_cpu(monkeypatch, frozenset())
    monkeypatch.setattr(kernel_report, "binding_version", lambda: "9.9.9")
    assert report_kernels("on").llama_cpp.startswith("9.9.9, which isn't tested with tailrace (")
