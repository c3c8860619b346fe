"""The proofs find a mistake in the kernels' code, whichever file it is in."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_formats import ACTIVATIONS_OF, REPACKED
from kernel_tiers import TIERS
from mutated_sources import mutate_source
from tailrace.engine.kernels import build, proofs
from tailrace.engine.kernels.proofs.attention import attention_is_right
from tailrace.engine.native_libs import NativeUnavailable
from tailrace.engine.native_libs.library import Proof
from tailrace.engine.native_libs.tiers import TierName


def dense(*formats: str) -> set[str]:
    """What the proofs call products with weights in the file's order, dense and by expert."""
    return {*formats, *(f"experts {name}" for name in formats)}


def repacked(*formats: str) -> set[str]:
    """What they call products with repacked weights, dense and by expert."""
    return {f"{what} {name}" for what in ("repacked", "experts") for name in formats}


#: Formats with quantised weights; the others are 16-bit floats.
QUANTISED = [kind.name for kind in ACTIVATIONS_OF]
ALL_REPACKED = {f"repacked {kind.name}" for kind in REPACKED}
ALL_EXPERTS = {f"experts {kind.name}" for kind in REPACKED}
#: What is written in the code, and what is put in its place.
Mistake = tuple[str, str]

#: Mistakes in code for AVX-512 and in what all tiers share, and what is computed wrongly then. Those of one build spoil
#: different results, so each has to be noticed.
MISTAKES: list[tuple[list[Mistake], set[str]]] = [
    (
        [
            ("v = _mm512_and_si512(v, _mm512_set1_epi8(15));", ""),
            ("-(float)t.zero_point * scale[0]", "-(float)(t.zero_point - 1) * scale[0]"),
            ("? 0x80808080 : 0", "? 0 : 0"),
            ("_mm512_set1_epi8(48)", "_mm512_set1_epi8(32)"),
            ("a[j] = _mm512_fnmadd_ps(", "a[j] = _mm512_fmadd_ps("),
        ],
        dense("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4")
        | dense("Q3_K", "Q6_K", "IQ4_XS")
        | repacked("Q8_0")
        | repacked("Q6_K")
        | repacked("Q2_K", "Q4_K", "Q5_K"),
    ),
    (
        [("-t.zero_point * sum", "t.zero_point * sum"), ("x = sigmoid_times(x, 1);", "x = sigmoid_times(x, 2);")],
        repacked("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4") | {"experts"},
    ),
    (
        [
            ("first * n_blocks * bytes", "first * bytes"),
            ("quads * (params->ith + 1)", "quads * params->ith"),
            ("sum = used ? vf_add(sum, weighted) : weighted;", "sum = weighted;"),
        ],
        {*QUANTISED} | ALL_REPACKED | {"experts"},
    ),
    (
        [("private ? n_act_blocks :", "private ? n_act_blocks - 1 :"), ("pair.used % activations->ne[1]", "0")],
        ALL_REPACKED | ALL_EXPERTS,
    ),
]
#: The same in attention, one by one.
MISTAKES_IN_ATTENTION: list[Mistake] = [
    ("to->row_sum = scratch->row_sum[r];", "to->row_sum = 1;"),
    ("if (now > before) {", "if (now < before) {"),
    ("while (d < keys.dim) KEY", "if (d < keys.dim) KEY"),
    ("bits >> (64 - shift)", "bits >> (63 - shift)"),
    ("sum = sum * by + 1;", "sum = sum * by;"),
    ("vf_sub(one, e), vf_add(one, e)", "vf_sub(one, e), one"),
    ("(float)(2 * (head - power) + 1) / 2", "(float)(head - power)"),
    ("type == CACHE_Q8_0 ? number : 0", "0"),
    ("_mm512_set1_epi16(15)), _mm512_set1_epi16(8))", "_mm512_set1_epi16(15)), _mm512_set1_epi16(7))"),
    ("_mm512_setr_epi64(4, 5, 12, 13,", "_mm512_setr_epi64(4, 5, 6, 7,"),
]
#: The same in code for AMX tiles alone.
MISTAKES_IN_TILES: list[tuple[list[Mistake], set[str]]] = [
    ([("numbers[1], numbers[0]", "numbers[0], numbers[1]")], {f"prompt {name}" for name in QUANTISED}),
    ([("bits == HIGH_NIBBLE ? 2048", "bits == HIGH_NIBBLE ? 128")], {"prompt Q4_0", "prompt Q4_1", "prompt Q4_K"}),
    ([("odd = fine ? half : n % 2;", "odd = false;")], {"prompt Q2_K", "prompt Q4_K", "prompt Q5_K"}),
    (
        [("[LOW_SIX] = 0x3f0000", "[LOW_SIX] = 0xf0000")],
        {"prompt Q5_0", "prompt Q5_1", "prompt MXFP4", "prompt Q5_K", "prompt Q6_K"},
    ),
    ([("before + 3 * TILE_SUMS", "before")], {f"prompt {kind.name}" for kind in REPACKED}),
    ([(" + place / MIN_EXPERT_TOKENS", "")], {f"prompt {kind.name}" for kind in REPACKED}),
]
#: The same in code for AVX2 alone.
MISTAKES_IN_AVX2: list[tuple[list[Mistake], set[str]]] = [
    ([("_mm256_setr_epi32(0, 4, 1, 5,", "_mm256_setr_epi32(0, 1, 4, 5,")], repacked(*QUANTISED)),
    (
        [
            ("group + 32 + 16 * half)", "group + 32)"),
            ("_mm256_sign_epi8(activations, quants)", "activations"),
            ("first, first, second, second", "first, first, first, first"),
        ],
        repacked("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")
        | dense("Q8_0", "IQ4_NL", "MXFP4", "IQ4_XS", "Q2_K", "Q3_K", "Q6_K"),
    ),
]
MISTAKES_IN_AVX2_ATTENTION: list[Mistake] = [
    ("_mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8)", "_mm256_packs_epi16(a, b)"),
    ("expanded(scratch->keys + j * g->k_row", "expanded(scratch->keys"),
    ("(const __m128i *)p)), i >= 16 ? 4", "(const __m128i *)p)), i >= 16 ? 0"),
]
#: Mistakes by the tier in which they are made: each in one that has the code and that is quick to compile.
MISTAKES_OF = {"amx": MISTAKES_IN_TILES, "avx512-vnni": MISTAKES, "avx2": MISTAKES_IN_AVX2}
ATTENTION_MISTAKES_OF = {"avx512-vnni": MISTAKES_IN_ATTENTION, "avx2": MISTAKES_IN_AVX2_ATTENTION}


def wrong_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tier: TierName, mistakes: list[Mistake], proof: Proof
) -> set[str]:
    """What the message of a build with ``mistakes`` says is computed wrongly. Nothing is cached."""
    sources = build.SOURCES
    for number, (right, wrong) in enumerate(mistakes):
        sources = mutate_source(sources, folder / f"kernels-{number}", right, wrong)
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(build, "prove_kernels", proof)
    kept = folder / "kept"
    with pytest.raises(NativeUnavailable, match=r"computes .* wrongly$") as refused:
        build.build_kernels(tier, kept)
    assert list(kept.glob("*.so")) == []
    found = re.search(r"computes (.*) wrongly$", str(refused.value))
    assert found is not None
    return set(found[1].split(", "))


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    ("tier", "mistakes", "expected"), [(tier, *each) for tier in TIERS for each in MISTAKES_OF.get(tier, [])]
)
def test_a_library_with_mistakes_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: TierName, mistakes: list[Mistake], expected: set[str]
) -> None:
    monkeypatch.setattr(proofs, "attention_is_right", lambda _: True)
    assert wrong_with(tmp_path, monkeypatch, tier, mistakes, proofs.wrong_results) == expected


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    ("tier", "mistake"), [(tier, each) for tier in TIERS for each in ATTENTION_MISTAKES_OF.get(tier, [])]
)
def test_attention_with_a_mistake_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: TierName, mistake: Mistake
) -> None:
    def proof(library: ctypes.CDLL) -> list[str]:
        return [] if attention_is_right(library) else ["attention"]

    assert wrong_with(tmp_path, monkeypatch, tier, [mistake], proof) == {"attention"}


@pytest.mark.skipif(not TIERS, reason="this CPU can't run them: the first test has seen that they are refused")
def test_a_library_is_proved_whatever_else_is_loaded(tmp_path: Path) -> None:
    """In a process with right kernels loaded, wrong ones could call the right ones' functions."""
    mutate_source(build.SOURCES, tmp_path / "kernels", "? 0x80808080 : 0", "? 0 : 0")
    program = (
        "import ctypes, sys; from pathlib import Path; from tailrace.engine.kernels import build\n"
        "from tailrace.engine.native_libs import compiler\n"
        "ctypes.CDLL(str(build.build_kernels(build.cpu_tiers()[0])), mode=ctypes.RTLD_GLOBAL)\n"
        "compiler.COMPILE_FLAGS = ('-O1', *compiler.COMPILE_FLAGS[1:])\n"
        "build.SOURCES = Path(sys.argv[1]); build.build_kernels(build.cpu_tiers()[-1], Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "kernels"), str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"computes repacked Q8_0, experts Q8_0(, prompt Q8_0)? wrongly", done.stderr), done.stderr
