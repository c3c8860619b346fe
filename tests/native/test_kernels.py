"""The matrix kernels: proved against gguf's own arithmetic, and absent with a reason where they can't be."""

from __future__ import annotations

import ctypes
import json
import mmap
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize

from kernel_tiers import TIERS
from mutated_sources import mutate_source
from tailrace.engine.kernels import build, proofs
from tailrace.engine.kernels.proofs.products import multiply_in_file_order
from tailrace.engine.kernels.proofs.random_weights import random_weights
from tailrace.engine.kernels.proofs.repacked_products import Numbers, multiply, repacking
from tailrace.engine.kernels.proofs.row_maxima import take_row_maxima
from tailrace.engine.kernels.proofs.stand_in import set_upstream, stand_in_pool
from tailrace.engine.kernels.proofs.tensors import (
    COMPUTE,
    compute_params,
    pointer,
    set_sources,
    tensor_of,
    weight_tensor,
)
from tailrace.engine.native_libs import NativeUnavailable, UnsupportedCpu, compiler, tiers
from tailrace.engine.native_libs.tiers import TierName

#: The formats that the kernels compute, with that of the activations, and those of them that they repack.
ACTIVATIONS_OF = {
    Kind.Q4_0: Kind.Q8_0,
    Kind.Q4_1: Kind.Q8_1,
    Kind.Q5_0: Kind.Q8_0,
    Kind.Q5_1: Kind.Q8_1,
    Kind.Q8_0: Kind.Q8_0,
    Kind.Q4_K: Kind.Q8_K,
    Kind.Q5_K: Kind.Q8_K,
    Kind.Q6_K: Kind.Q8_K,
}
REPACKED = (Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.Q4_K, Kind.Q6_K)
PROMPT = ", ".join(f"prompt {kind.name}" for kind in REPACKED)


@pytest.mark.parametrize("tier", build.KERNEL_TIERS)
def test_every_format_is_right_or_the_cpu_lacks_something(tmp_path: Path, tier: TierName) -> None:
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


#: One thing wrong in the code of every tier, and what is computed wrongly then.
ALTERED = [
    ("v = _mm512_and_si512(v, _mm512_set1_epi8(15));", "", "Q4_0, Q4_1, Q5_0, Q5_1"),
    ("-(float)t.zero_point * scale[0]", "-(float)(t.zero_point - 1) * scale[0]", "Q6_K"),
    ("partial[1] = scratch->row_sum[r];", "partial[1] = 1;", "attention"),
    ("if (now > before) {", "if (now < before) {", "attention"),
    ("if (lost) break;", "", "attention"),
    ("bits >> (64 - shift)", "bits >> (63 - shift)", "attention"),
    ("? 0x80808080 : 0", "? 0 : 0", "repacked Q8_0(, prompt Q8_0)?"),
    ("-t.zero_point * sum", "t.zero_point * sum", "repacked Q4_0, repacked Q8_0"),
    (
        "first * n_blocks * act_bytes",
        "first * act_bytes",
        ", ".join(f"repacked {kind.name}" for kind in REPACKED),
    ),
    ("_mm512_set1_epi8(48)", "_mm512_set1_epi8(32)", "repacked Q6_K(, prompt Q6_K)?"),
    (
        "private ? n_act_blocks :",
        "private ? n_act_blocks - 1 :",
        ", ".join(f"repacked {kind.name}" for kind in REPACKED),
    ),
    ("a[j] = _mm512_fnmadd_ps(", "a[j] = _mm512_fmadd_ps(", "repacked Q4_K"),
    ("quads * (params->ith + 1)", "quads * params->ith", ", ".join(kind.name for kind in ACTIVATIONS_OF)),
]
#: The same in what only tiles use.
ALTERED_TILES = [
    ("numbers[1], numbers[0]", "numbers[0], numbers[1]", PROMPT),
    ("bits == HIGH_NIBBLE ? 2048", "bits == HIGH_NIBBLE ? 128", "prompt Q4_0, prompt Q4_1, prompt Q4_K"),
    ("_mm256_srli_epi16(both, 8)", "both", "prompt Q4_K"),
    ("[LOW_SIX] = 0x3f0000", "[LOW_SIX] = 0xf0000", "prompt Q6_K"),
    ("before + 3 * TILE_SUMS", "before", PROMPT),
]


@pytest.mark.parametrize(
    ("tier", "right", "wrong", "formats"),
    [(tier, *altered) for tier in TIERS for altered in ALTERED + (ALTERED_TILES if tier == "amx" else [])],
)
def test_a_library_that_computes_wrongly_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: TierName, right: str, wrong: str, formats: str
) -> None:
    monkeypatch.setattr(build, "SOURCES", mutate_source(build.SOURCES, tmp_path / "kernels", right, wrong))
    # In half of the time, for what is wrong is so however it is optimised.
    monkeypatch.setattr(compiler, "COMPILE_FLAGS", ("-O1", *compiler.COMPILE_FLAGS[1:]))
    kept = tmp_path / "kept"
    with pytest.raises(NativeUnavailable, match=f"computes {formats} wrongly"):
        build.build_kernels(tier, kept)
    assert list(kept.iterdir()) == []


@pytest.mark.skipif(not TIERS, reason="this CPU can't run them: the first test has seen that they are refused")
def test_a_library_is_proved_by_itself_whatever_is_loaded(tmp_path: Path) -> None:
    """In a process where right kernels are in force, wrong ones would find the right ones' parts."""
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
    assert re.search(r"computes repacked Q8_0(, prompt Q8_0)? wrongly", done.stderr), done.stderr


@pytest.fixture
def copying(library: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """Kernels beside a pool of one thread."""
    library.tailrace_kernels_repacked_bytes.restype = ctypes.c_int64
    with stand_in_pool(library, 1):
        yield library
        for model in (1, 2):
            library.tailrace_kernels_set_repack_budget(model, ctypes.c_int64(0))
            library.tailrace_kernels_free_repacked(model)


RANDOM = np.random.default_rng(5)
WEIGHTS = quantize(RANDOM.standard_normal((32, 64)).astype(np.float32), Kind.Q4_1)
ACTIVATIONS = RANDOM.standard_normal((3, 64)).astype(np.float32)


def product(library: ctypes.CDLL, weights: npt.NDArray[np.uint8] = WEIGHTS, *, usage: int = 1) -> Numbers:
    """By interleaved weights, or NaN where there are none."""
    return multiply(library, Kind.Q4_1, weights, ACTIVATIONS, threads=1, usage=usage)


def load(library: ctypes.CDLL, model: int, budget: int, weights: npt.NDArray[np.uint8] = WEIGHTS) -> Numbers:
    """What a model's first product gives."""
    library.tailrace_kernels_set_repack_budget(model, ctypes.c_int64(budget))
    found = product(library, weights)
    library.tailrace_kernels_set_repack_budget(model, ctypes.c_int64(0))
    return found


@pytest.mark.parametrize("budget", [0, WEIGHTS.nbytes - 1])
def test_weights_that_exceed_the_budget_stay_as_they_are(copying: ctypes.CDLL, budget: int) -> None:
    assert np.isnan(load(copying, 1, budget)).all()
    assert np.isnan(product(copying)).all()
    assert copying.tailrace_kernels_repacked_bytes(1) == 0


def test_weights_are_copied_while_a_model_is_loaded_and_no_later(copying: ctypes.CDLL) -> None:
    assert np.isnan(product(copying)).all()
    found = load(copying, 1, 1 << 20)
    assert copying.tailrace_kernels_repacked_bytes(1) == WEIGHTS.nbytes
    assert np.array_equal(product(copying), found)
    assert np.isnan(product(copying, WEIGHTS.copy())).all()


def test_what_is_no_weight_is_not_copied(copying: ctypes.CDLL) -> None:
    copying.tailrace_kernels_set_repack_budget(1, ctypes.c_int64(1 << 20))
    assert np.isnan(product(copying, usage=COMPUTE)).all()
    assert np.isnan(product(copying, WEIGHTS[:24].copy())).all()  # No whole panels.
    assert copying.tailrace_kernels_repacked_bytes(1) == 0


def test_a_second_models_weights_in_the_same_place_are_its_own(copying: ctypes.CDLL) -> None:
    place = WEIGHTS.copy()
    kept = WEIGHTS.copy()
    load(copying, 1, 1 << 20, place)
    other = load(copying, 2, 1 << 20, kept)
    copying.tailrace_kernels_free_repacked(1)
    place[:] = place[::-1]
    assert np.isnan(product(copying, place)).all()
    found = load(copying, 1, 1 << 20, place)
    assert np.array_equal(found, other[:, ::-1])
    assert np.array_equal(product(copying, kept), other)


def test_maxima_are_kept_of_logits_alone_as_long_as_they_are_numbers(copying: ctypes.CDLL) -> None:
    def kept(activations: Numbers = ACTIVATIONS, name: bytes = b"result_output") -> int | None:
        """Of how many columns."""
        multiply(copying, Kind.Q4_1, WEIGHTS, activations, threads=1, name=name)
        found = take_row_maxima(copying)
        return None if found is None else len(found)

    load(copying, 1, 1 << 20)
    assert take_row_maxima(copying) is not None
    assert take_row_maxima(copying) is None  # They are told once.
    assert kept() == 3
    assert kept(name=b"result_output_2") is None
    assert kept(np.concatenate([ACTIVATIONS] * 22)) is None
    broken = WEIGHTS.copy()
    broken[5, :2] = np.array([np.nan], np.float16).view(np.uint8)
    assert np.isnan(load(copying, 2, 1 << 20, broken)[:, 5]).all()
    assert take_row_maxima(copying) is None
    assert kept() == 3
    # Logits that are made by others are those of the last product, too.
    multiply(copying, Kind.Q4_1, WEIGHTS.copy(), ACTIVATIONS, threads=1)
    assert take_row_maxima(copying) is None


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 17, 31, 250])
@pytest.mark.parametrize("kind", REPACKED)
def test_what_is_not_a_number_makes_none_of_its_column(
    library: ctypes.CDLL, kind: Kind, place: int, damage: float
) -> None:
    """Whatever the column is rounded to, and however many there are."""
    random = np.random.default_rng(7)
    weights = random_weights(kind, random, 32, 256)
    for columns in (1, 3, 12, 48):
        activations = random.standard_normal((columns, 256)).astype(np.float32)
        activations[columns // 2, place] = damage
        with stand_in_pool(library), repacking(library, 2 * weights.nbytes):
            found = multiply(library, kind, weights, activations)
        damaged = np.arange(columns) == columns // 2
        assert not np.isfinite(found[damaged]).any()
        assert np.isfinite(found[~damaged]).all()


@pytest.mark.parametrize("place", [0, 17, 255])
@pytest.mark.parametrize("kind", ACTIVATIONS_OF)
def test_weights_as_the_file_has_them_keep_damage_visible_too(library: ctypes.CDLL, kind: Kind, place: int) -> None:
    """llama.cpp, which rounds the columns, makes a number of what is none."""
    weights = random_weights(kind, np.random.default_rng(7), 24, 256)
    activations = np.zeros((3, 256), np.float32)
    activations[1, place] = np.nan
    found = np.zeros((3, 24), np.float32)
    own, inputs, result = weight_tensor(kind, weights), tensor_of(activations[None, None]), tensor_of(found[None, None])
    set_sources(result, own, inputs)
    library.ggml_compute_forward_mul_mat_tiled.restype = ctypes.c_bool

    def offered() -> None:
        params = compute_params()
        assert not library.ggml_compute_forward_mul_mat_tiled(pointer(params), pointer(result))
        rounded = np.zeros((3, 4096), np.uint8)
        multiply_in_file_order(library, kind, weights, ACTIVATIONS_OF[kind], rounded, 3, out=found)

    offered()
    assert np.isnan(found[1]).all()
    assert not found[[0, 2]].any()
    activations[1, place] = 0
    offered()
    assert not found.any()


_ASKED = """
import ctypes, json, re, sys
from pathlib import Path
library = ctypes.CDLL(sys.argv[1])
library.ggml_aligned_malloc.restype = ctypes.c_void_p
library.ggml_aligned_malloc.argtypes = [ctypes.c_size_t]
library.ggml_aligned_free.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def asks(size):
    address = library.ggml_aligned_malloc(size)
    assert address % 64 == 0
    ctypes.memset(address, 1, size)
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():  # proc(5): hg is MADV_HUGEPAGE
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            library.ggml_aligned_free(address, size)
            return "hg" in line.split()
print(json.dumps([library.ggml_aligned_malloc(0), asks(1 << 16), asks(64 << 20)]))
"""


def test_large_memory_asks_for_huge_pages(library: ctypes.CDLL) -> None:
    """In a process of its own: in this one numpy may have asked for the heap that small memory comes from."""
    done = subprocess.run([sys.executable, "-c", _ASKED, library._name], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [None, False, Path("/sys/kernel/mm/transparent_hugepage").exists()]


@pytest.mark.parametrize(("size", "taken"), [((32 << 20) + 4096, True), ((320 << 20) + 4096, False)])
def test_large_memory_is_cleared_by_giving_its_pages_back(library: ctypes.CDLL, size: int, taken: bool) -> None:
    written_to = 33 << 20
    places: dict[int, int] = {}
    written: list[tuple[int, int]] = []
    clear = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint8)(lambda buffer, to: written.append((buffer, to)))
    base = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda buffer: places[buffer])
    length = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(lambda _: size)
    library.ggml_backend_buffer_clear.argtypes = [ctypes.c_void_p, ctypes.c_uint8]
    functions = {
        "ggml_backend_buffer_clear": clear,
        "ggml_backend_buffer_get_base": base,
        "ggml_backend_buffer_get_size": length,
    }
    set_upstream(library, functions)
    try:
        own = places[1] = library.ggml_aligned_malloc(size)
        ctypes.memset(own, 7, min(size, written_to))
        ctypes.memset(own + size - 4096, 7, 4096)
        library.ggml_backend_buffer_clear(1, 0)
        assert written == []
        # What is small enough to be there at load is there, so that nobody waits for it later (since Linux 5.14).
        assert _resident(own, size) == (size if taken else 4096)
        assert not any(ctypes.string_at(own, min(size, written_to)))
        assert not any(ctypes.string_at(own + size - 4096, 4096))
        library.ggml_backend_buffer_clear(1, 5)
        assert written == [(1, 5)]
        # Memory of others: none of it may go, whatever lies there.
        with mmap.mmap(-1, 2 * size) as other:
            start = ctypes.addressof(ctypes.c_char.from_buffer(other))
            places[2] = -(-start // (2 << 20)) * (2 << 20)
            library.ggml_backend_buffer_clear(2, 0)
            assert written == [(1, 5), (2, 0)]
        library.ggml_aligned_free(own, size)
        library.ggml_backend_buffer_clear(1, 0)
        assert written == [(1, 5), (2, 0), (1, 0)]
    finally:
        set_upstream(library, {})


def _resident(address: int, size: int) -> int:
    """Bytes of it that are in memory, by mincore(2)."""
    pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


@pytest.mark.parametrize("spins", [0, 640, 1_000_000, 2**31 - 1], ids=["asleep", "impatient", "spinning", "for ever"])
def test_threads_wait_for_each_other(library: ctypes.CDLL, spins: int) -> None:
    """Nobody passes before all have come, in pools that are used at the same time, whether they sleep or spin."""
    threads = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 2)
    set_upstream(library, {"omp_get_num_threads": threads})
    library.tailrace_kernels_set_spins(spins)
    come = [[0, 0], [0, 0]]
    early: list[tuple[int, int]] = []

    def run(pool: int, one: int) -> None:
        for turn in range(1, 201):
            come[pool][one] = turn
            library.ggml_barrier(ctypes.c_void_p(0x1000 * (pool + 1)))
            if come[pool][1 - one] < turn:
                early.append((pool, turn))
            library.ggml_barrier(ctypes.c_void_p(0x1000 * (pool + 1)))

    workers = [threading.Thread(target=run, args=(pool, one)) for pool in range(2) for one in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert come == [[200, 200], [200, 200]]
    assert early == []


@pytest.fixture
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU of the lowest tier, whatever this one is."""
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: tiers.TIERS["avx512-vnni"].cpu_flags)


@pytest.mark.usefixtures("any_cpu")
def test_without_a_compiler_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_cpu_without_the_instructions_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = tiers.TIERS["avx512-vnni"].cpu_flags - {"avx512_vnni", "f16c"}
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: flags)
    with pytest.raises(UnsupportedCpu, match="this CPU lacks avx512_vnni, f16c"):
        build.build_kernels("avx512-vnni", tmp_path)
