"""The proofs find a mistake in the kernels' code, whichever file it is in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_formats import ACTIVATIONS_OF, REPACKED
from kernel_tiers import TIERS
from mutated_sources import mutate_source
from tailrace.engine.kernels import build, proofs
from tailrace.engine.native_libs import NativeUnavailable, compiler
from tailrace.engine.native_libs.tiers import TierName

PROMPT = ", ".join(f"prompt {kind.name}" for kind in REPACKED)
EXPERTS = ", ".join(f"experts {kind.name}" for kind in REPACKED)


def in_file_order(*formats: str) -> str:
    """Products with weights in the file's order, dense and by expert."""
    return ", ".join([*formats, *(f"experts {name}" for name in formats)])


#: A change to the code of the tiers with AVX-512 and to what all tiers share, and what is computed wrongly then.
MISTAKES = [
    (
        "v = _mm512_and_si512(v, _mm512_set1_epi8(15));",
        "",
        in_file_order("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4"),
    ),
    (
        "-(float)t.zero_point * scale[0]",
        "-(float)(t.zero_point - 1) * scale[0]",
        in_file_order("Q3_K", "Q6_K", "IQ4_XS"),
    ),
    ("to->row_sum = scratch->row_sum[r];", "to->row_sum = 1;", "attention"),
    ("if (now > before) {", "if (now < before) {", "attention"),
    ("while (!is_quantised(type) && d < keys.dim) KEY", "if (d < keys.dim) KEY", "attention"),
    ("bits >> (64 - shift)", "bits >> (63 - shift)", "attention"),
    ("sum = sum * by + 1;", "sum = sum * by;", "attention"),
    ("vf_sub(one, e), vf_add(one, e)", "vf_sub(one, e), one", "attention"),
    ("(float)(2 * (head - power) + 1) / 2", "(float)(head - power)", "attention"),
    ("cell + 2 + i), vf_set1_f16", "cell + 2), vf_set1_f16", "attention"),
    ("vf_mul(scale, vf_set1(-8.0f))", "vf_mul(scale, vf_set1(-7.0f))", "attention"),
    ("? 0x80808080 : 0", "? 0 : 0", "repacked Q8_0, experts Q8_0(, prompt Q8_0)?"),
    (
        "-t.zero_point * sum",
        "t.zero_point * sum",
        "repacked Q4_0, repacked Q5_0, repacked Q8_0, repacked IQ4_NL, repacked MXFP4, "
        "experts Q4_0, experts Q5_0, experts Q8_0, experts IQ4_NL, experts MXFP4",
    ),
    (
        "first * n_blocks * bytes",
        "first * bytes",
        ", ".join(f"repacked {kind.name}" for kind in REPACKED),
    ),
    ("_mm512_set1_epi8(48)", "_mm512_set1_epi8(32)", "repacked Q6_K, experts Q6_K(, prompt Q6_K)?"),
    (
        "private ? n_act_blocks :",
        "private ? n_act_blocks - 1 :",
        ", ".join(f"repacked {kind.name}" for kind in REPACKED),
    ),
    ("a[j] = _mm512_fnmadd_ps(", "a[j] = _mm512_fmadd_ps(", "repacked Q2_K, repacked Q4_K, repacked Q5_K, .*"),
    ("pair.used % activations->ne[1]", "0", EXPERTS),
    ("x = sigmoid_times(x, 1);", "x = sigmoid_times(x, 2);", "experts"),
    ("sum = used ? vf_add(sum, weighted) : weighted;", "sum = weighted;", "experts"),
    ("quads * (params->ith + 1)", "quads * params->ith", ", ".join(kind.name for kind in ACTIVATIONS_OF)),
]


#: The same in code for AMX tiles alone.
MISTAKES_IN_TILES = [
    ("numbers[1], numbers[0]", "numbers[0], numbers[1]", ", ".join(f"prompt {kind.name}" for kind in ACTIVATIONS_OF)),
    ("bits == HIGH_NIBBLE ? 2048", "bits == HIGH_NIBBLE ? 128", "prompt Q4_0, prompt Q4_1, prompt Q4_K"),
    ("odd = fine ? half : n % 2;", "odd = false;", "prompt Q2_K, prompt Q4_K, prompt Q5_K"),
    (
        "[LOW_SIX] = 0x3f0000",
        "[LOW_SIX] = 0xf0000",
        "prompt Q5_0, prompt Q5_1, prompt MXFP4, prompt Q5_K, prompt Q6_K",
    ),
    ("before + 3 * TILE_SUMS", "before", PROMPT),
]


#: The same in code for AVX2 alone, with VNNI and without.
MISTAKES_IN_AVX2 = [
    (
        "_mm256_setr_epi32(0, 4, 1, 5,",
        "_mm256_setr_epi32(0, 1, 4, 5,",
        ", ".join(f"{what} {kind.name}" for what in ("repacked", "experts") for kind in ACTIVATIONS_OF),
    ),
    ("group + 32 + 16 * half)", "group + 32)", "repacked Q4_1, .*repacked Q4_K, repacked Q5_K.*"),
    ("_mm256_sign_epi8(activations, quants)", "activations", in_file_order("Q8_0", "IQ4_NL", "MXFP4", "IQ4_XS")),
    ("first, first, second, second", "first, first, first, first", in_file_order("Q2_K", "Q3_K", "Q6_K")),
    ("_mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8)", "_mm256_packs_epi16(a, b)", "attention"),
    ("expanded(scratch->keys + j * g->k_row", "expanded(scratch->keys", "attention"),
]
#: Mistakes in a tier's code. Code that all tiers share is altered in one of them.
MISTAKES_OF: dict[TierName, list[tuple[str, str, str]]] = {
    "amx": MISTAKES + MISTAKES_IN_TILES,
    "avx512-vnni": MISTAKES,
    "avx2-vnni": MISTAKES_IN_AVX2,
    "avx2": MISTAKES_IN_AVX2,
}


@pytest.mark.parametrize(
    ("tier", "right", "wrong", "formats"), [(tier, *altered) for tier in TIERS for altered in MISTAKES_OF[tier]]
)
def test_a_library_with_a_mistake_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: TierName, right: str, wrong: str, formats: str
) -> None:
    monkeypatch.setattr(build, "SOURCES", mutate_source(build.SOURCES, tmp_path / "kernels", right, wrong))
    # In half of the time: a mistake shows however the code is optimised.
    monkeypatch.setattr(compiler, "COMPILE_FLAGS", ("-O1", *compiler.COMPILE_FLAGS[1:]))
    if formats != "attention":
        # Attention's proof takes longer than all others together.
        monkeypatch.setattr(proofs, "attention_is_right", lambda _: True)
    kept = tmp_path / "kept"
    with pytest.raises(NativeUnavailable, match=f"computes {formats} wrongly"):
        build.build_kernels(tier, kept)
    assert list(kept.iterdir()) == []


@pytest.mark.skipif(not TIERS, reason="this CPU can't run them: the first test has seen that they are refused")
def test_a_library_is_proved_whatever_else_is_loaded(tmp_path: Path) -> None:
    """In a process with right kernels loaded, wrong ones could call the right ones' functions."""
    mutate_source(build.SOURCES, tmp_path / "kernels", "? 0x80808080 : 0", "? 0 : 0")
    program = (
        "import ctypes, sys; from pathlib import Path; from tailrace.engine.kernels import build\n"
        "ctypes.CDLL(str(build.build_kernels(build.cpu_tiers()[0])), mode=ctypes.RTLD_GLOBAL)\n"
        "build.SOURCES = Path(sys.argv[1]); build.build_kernels(build.cpu_tiers()[-1], Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "kernels"), str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"computes repacked Q8_0, experts Q8_0(, prompt Q8_0)? wrongly", done.stderr), done.stderr
