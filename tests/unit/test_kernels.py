"""The matrix kernels: proved against gguf's own arithmetic, and absent with a reason where they can't be."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from tailrace.engine.kernels import KernelsUnavailable, build, proof
from tailrace.machine import isa

CAN = set(isa.read_isa().sets) >= build.NEEDED


def test_every_format_is_right_or_the_cpu_lacks_something(tmp_path: Path) -> None:
    if not CAN:
        with pytest.raises(KernelsUnavailable, match="this CPU has no"):
            build.built(tmp_path)
        return
    library = build.built(tmp_path)
    assert proof.wrong_results(ctypes.CDLL(str(library))) == []
    made = library.stat().st_mtime_ns
    assert build.built(tmp_path) == library
    assert library.stat().st_mtime_ns == made
    assert list(tmp_path.iterdir()) == [library]


@pytest.mark.skipif(not CAN, reason="this CPU can't run them: the test above has seen that they are refused")
@pytest.mark.parametrize(
    ("right", "wrong", "formats"),
    [
        ("v = _mm512_and_si512(v, _mm512_set1_epi8(15));", "", "Q4_0, Q4_1, Q5_0, Q5_1"),
        ("-32 * own[0]", "-31 * own[0]", "Q6_K"),
        ("own[1] = total[r];", "own[1] = 1;", "attention"),
        ("if (now > before) {", "if (now < before) {", "attention"),
        ("(call->thread + 1)", "call->thread", ", ".join(kind.name for kind in proof.PARTNERS)),
    ],
)
def test_a_library_that_computes_wrongly_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, formats: str
) -> None:
    changed = shutil.copytree(build.FOLDER, tmp_path / "kernels")
    found = [path for path in changed.glob("*.[ch]") if right in path.read_text(encoding="utf-8")]
    assert len(found) == 1
    found[0].write_text(found[0].read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    monkeypatch.setattr(build, "FOLDER", changed)
    kept = tmp_path / "kept"
    with pytest.raises(KernelsUnavailable, match=f"computes {formats} wrongly"):
        build.built(kept)
    assert list(kept.iterdir()) == []


def test_without_a_compiler_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NEEDED", frozenset[str]())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(KernelsUnavailable, match="no C compiler"):
        build.built(tmp_path / "kept")


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NEEDED", frozenset[str]())
    (tmp_path / "gemm.c").write_text("#error no good\n", encoding="utf-8")
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    with pytest.raises(KernelsUnavailable, match="no good"):
        build.built(tmp_path / "kept")


def test_a_cpu_without_the_instructions_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "read_isa", lambda: isa.Isa("x86_64", ("AVX2", "F16C"), ()))
    with pytest.raises(KernelsUnavailable, match="no AVX-512 and no AVX-512 VNNI"):
        build.built(tmp_path)
