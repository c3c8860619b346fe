"""Attention by the kernels: what their proof doesn't ask, and that it notices tiles that compute wrongly."""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as CacheType

from kernel_tiers import TIERS
from mutated_sources import mutate_source
from tailrace.engine.kernels import build
from tailrace.engine.kernels.proofs.attention import (
    CACHE_TYPES,
    QUANTISED_TYPES,
    Numbers,
    attention,
    attention_by,
    store_cells,
    stored_numbers,
)
from tailrace.engine.kernels.proofs.random_weights import Bytes
from tailrace.engine.kernels.proofs.stand_in import set_upstream, stand_in_pool
from tailrace.engine.kernels.proofs.tensors import compute_params, pointer, set_float_params, set_sources, tensor_of
from tailrace.engine.native_libs import NativeUnavailable
from tailrace.engine.native_libs.library import Source, ensure_built
from tailrace.engine.native_libs.tiers import TIERS as ALL_TIERS
from tailrace.machine.isa import read_cpu_flags

TILES = "amx" in TIERS
QUANTISED = [types for types in CACHE_TYPES if types != (CacheType.F16, CacheType.F16)]
#: Flags of the CPU that the tier with tiles needs for all of its code but the tiles.
_AMX_WITHOUT_TILES = ALL_TIERS["avx512-vnni"].cpu_flags | {"avx512_bf16", "avx512vbmi"}


def name_types(types: tuple[CacheType, CacheType]) -> str:
    return f"{types[0].name}-{types[1].name}"


@pytest.mark.skipif(not TILES, reason="this CPU has no tiles: its attention is AVX-512's, which test_proofs.py changes")
@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("_mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1))", "_mm512_setzero_ps()"),
        ("(raised, _mm512_set1_epi32((int)0xffff0000))", "(raised, _mm512_set1_epi32((int)0xff800000))"),
        ("blind <= 0 ? 0xffff", "blind <= BLOCK_ROWS ? 0xffff"),
        ("(to * dims.v + d) * BLOCK_ROWS, x)", "(to * dims.v + d) * BLOCK_ROWS, _mm512_setzero_ps())"),
    ],
)
def test_amx_code_with_a_mistake_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    monkeypatch.setattr(build, "SOURCES", mutate_source(build.SOURCES, tmp_path / "kernels", right, wrong))
    with pytest.raises(NativeUnavailable, match="computes attention wrongly"):
        build.build_kernels("amx", tmp_path / "kept")


def _prompt(random: np.random.Generator, tokens: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """The last ``tokens`` of a prompt of 80, in four heads over two: queries (all above 0), keys, values and mask."""
    query = np.abs(random.standard_normal((1, 4, tokens, 64))).astype(np.float32)
    keys, values = (random.standard_normal((1, 2, 80, 64)).astype(np.float16) for _ in range(2))
    sees = np.arange(80) <= 80 - tokens + np.arange(tokens)[:, None]
    return query, keys, values, np.where(sees, 0, -np.inf).astype(np.float16)[None, None]


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1000.0, 10000.0])
@pytest.mark.parametrize("tokens", [1, 40])
def test_attention_is_right_for_values_of_any_size(library: ctypes.CDLL, tokens: int, scale: float) -> None:
    """Tiles have them in 8 bits, small ones, too, that have fewer in 16."""
    query, keys, values, mask = _prompt(np.random.default_rng(5), tokens)
    values = (values.astype(np.float32) * scale).astype(np.float16)
    expected = attention(query, keys, values, mask, 0.125)
    found = attention_by(library, query, keys, values, mask, 0.125)
    assert np.abs(found - expected).max() <= (1e-5 if tokens == 1 else 6e-3) * np.abs(expected).max()


@pytest.mark.parametrize("threads", [1, 2])
def test_exact_tokens_are_the_same_together_and_one_by_one(library: ctypes.CDLL, threads: int) -> None:
    """To the last bit, however many they are."""
    query, keys, values, mask = _prompt(np.random.default_rng(5), 40)
    library.tailrace_kernels_set_exact_tokens(40)
    try:
        with stand_in_pool(library):
            together = attention_by(library, query, keys, values, mask, 0.125, threads)
            for token in (0, 7, 39):
                alone = attention_by(library, query[:, :, [token]], keys, values, mask[:, :, [token]], 0.125, threads)
                assert (alone[:, :, 0] == together[:, :, token]).all()
    finally:
        library.tailrace_kernels_set_exact_tokens(0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("types", QUANTISED, ids=name_types)
def test_exact_tokens_over_other_types_are_the_same_together_and_one_by_one(
    library: ctypes.CDLL, types: tuple[CacheType, CacheType], threads: int
) -> None:
    query, keys, values, mask = _prompt(np.random.default_rng(5), 40)
    k, v = (store_cells(part, kind) for part, kind in zip((keys, values), types, strict=True))
    library.tailrace_kernels_set_exact_tokens(40)
    try:
        with stand_in_pool(library):
            together = attention_by(library, query, k, v, mask, 0.125, threads, types)
            for token in (0, 7, 39):
                one, one_mask = query[:, :, [token]], mask[:, :, [token]]
                alone = attention_by(library, one, k, v, one_mask, 0.125, threads, types)
                assert (alone[:, :, 0] == together[:, :, token]).all()
    finally:
        library.tailrace_kernels_set_exact_tokens(0)


@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
@pytest.mark.parametrize("types", CACHE_TYPES, ids=name_types)
def test_cells_are_read_where_llama_cpp_puts_them(
    library: ctypes.CDLL, types: tuple[CacheType, CacheType], head_dim: int
) -> None:
    """All heads of a cell lie side by side, and the cells behind those that are read hold anything."""
    random = np.random.default_rng(9)
    query = random.standard_normal((1, 6, 2, head_dim)).astype(np.float32)
    mask = np.zeros((1, 1, 2, 48), np.float16)

    def cells_of(kind: CacheType) -> Bytes:
        cells = store_cells(random.standard_normal((1, 64, 3, head_dim)).astype(np.float32), kind)
        cells[:, 48:] = 0xFF
        return cells[:, :48].swapaxes(1, 2)

    k, v = map(cells_of, types)
    keys, values = (
        stored_numbers(np.ascontiguousarray(cells), kind) for cells, kind in zip((k, v), types, strict=True)
    )
    expected = attention(query, keys, values, mask, head_dim**-0.5)
    found = attention_by(library, query, k, v, mask, head_dim**-0.5, types=types)
    words = not QUANTISED_TYPES.isdisjoint(types)
    assert np.abs(found - expected).max() <= (2e-4 if words else 1e-5) * np.abs(expected).max()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["keys", "values"])
@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("kind", [CacheType.BF16, CacheType.Q8_0, CacheType.Q4_0], ids=lambda kind: kind.name)
def test_damaged_cells_of_other_types_stay_visible(
    library: ctypes.CDLL, kind: CacheType, tokens: int, which: str, wrong: float
) -> None:
    """A scale of a block, or a number in bf16."""
    query, keys, values, mask = _prompt(np.random.default_rng(5), tokens)
    k, v = store_cells(np.abs(keys) + 1, kind), store_cells(np.abs(values) + 1, kind)
    damaged = (k if which == "keys" else v)[0, 1, 3]
    wide, half = np.array([wrong], np.float32), np.array([wrong], np.float16)
    damaged[:2] = wide.view(np.uint8)[2:] if kind == CacheType.BF16 else half.view(np.uint8)
    found = attention_by(library, query, k, v, mask, 0.125, types=(kind, kind))
    assert np.isfinite(found[0, :2]).all()
    assert not np.isfinite(found[0, 2:]).all(axis=-1).any()
    mask[..., 3] = -np.inf
    assert np.isfinite(attention_by(library, query, k, v, mask, 0.125, types=(kind, kind))).all()


@pytest.mark.skipif(
    bool(_AMX_WITHOUT_TILES - read_cpu_flags()), reason="this CPU can't run the other code of the tier with tiles"
)
@pytest.mark.usefixtures("quick_compile")
def test_a_prompt_over_each_type_uses_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here tiles count as usable, and the first one ends the process."""
    usable = mutate_source(build.SOURCES, tmp_path / "usable", "return answer == YES;", "return true;")
    begin = "INLINE struct tile_config tiles_begin(void) {"
    trapped = mutate_source(usable, tmp_path / "kernels", begin, f"{begin} __builtin_trap();")
    source = Source("kernels", trapped, lambda _: [], build.source().include)
    monkeypatch.setattr(type(ALL_TIERS["amx"]), "require", lambda _: None)
    library = ensure_built(source, ALL_TIERS["amx"], tmp_path / "kept")
    has_code, has_none = 64, 32
    for dim, types, code in (
        (has_none, CACHE_TYPES[0], 0),
        *((has_code, each, -signal.SIGILL) for each in CACHE_TYPES),
    ):
        arguments = [str(library), str(dim), *(str(int(kind)) for kind in types)]
        done = subprocess.run([sys.executable, "-c", _PROMPT_OF_TYPES, *arguments], capture_output=True, check=False)
        assert done.returncode == code, (dim, types, done.stderr)


_PROMPT_OF_TYPES = """
import ctypes, sys
import numpy as np
from gguf import GGMLQuantizationType as CacheType
from tailrace.engine.kernels.proofs.attention import attention_by, store_cells
library, dim, types = ctypes.CDLL(sys.argv[1]), int(sys.argv[2]), tuple(CacheType(int(kind)) for kind in sys.argv[3:])
query, mask = np.ones((1, 4, 40, dim), np.float32), np.zeros((1, 1, 40, 80), np.float16)
k, v = (store_cells(np.ones((1, 2, 80, dim), np.float32), kind) for kind in types)
assert np.abs(attention_by(library, query, k, v, mask, 0.125, types=types) - 1).max() < 0.01
"""


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [CacheType.Q8_0, CacheType.Q4_0], ids=lambda kind: kind.name)
def test_a_damaged_query_over_quantised_keys_stays_visible(library: ctypes.CDLL, kind: CacheType, wrong: float) -> None:
    """Rounding to words would make a number of it."""
    query, keys, values, mask = _prompt(np.random.default_rng(5), 3)
    query[0, 2:, :, 7] = wrong
    k, v = store_cells(keys, kind), store_cells(values, kind)
    found = attention_by(library, query, k, v, mask, 0.125, types=(kind, kind))
    assert np.isfinite(found[0, :2]).all()
    assert not np.isfinite(found[0, 2:]).any()


@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-35, 1e-10, 1e4])
def test_queries_of_any_size_over_quantised_keys(library: ctypes.CDLL, size: float) -> None:
    """The inverse of a small query's scale has no 32 bits, and that of none at all doesn't exist."""
    query, keys, values, mask = _prompt(np.random.default_rng(5), 3)
    query *= np.float32(size)
    k, v = store_cells(keys, CacheType.Q8_0), store_cells(values, CacheType.Q8_0)
    stored_keys, stored_values = (stored_numbers(part, CacheType.Q8_0) for part in (k, v))
    expected = attention(query, stored_keys, stored_values, mask, 0.125 / max(size, 1.0))
    found = attention_by(library, query, k, v, mask, 0.125 / max(size, 1.0), types=(CacheType.Q8_0, CacheType.Q8_0))
    assert np.abs(found - expected).max() <= 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("which", ["query", "keys", "values"])
@pytest.mark.parametrize("cells", ["first", "last", "all"])
def test_nan_and_infinity_stay_visible_in_the_results(
    library: ctypes.CDLL, which: str, tokens: int, threads: int, wrong: float, cells: str
) -> None:
    query, keys, values, mask = _prompt(np.random.default_rng(5), tokens)
    # A key head, or its query heads; a cell that all tokens see, in the first tile or in the rest of one.
    place = {"first": slice(3, 4), "last": slice(80 - tokens, 81 - tokens), "all": slice(None)}[cells]
    if which == "query":
        query[0, 2:, :, 7] = wrong
    else:
        (keys if which == "keys" else values)[0, 1, place, 7] = wrong
    if which == "query" and wrong == np.inf:
        # Keys above 0 take part: else every score is minus infinity, which is a weight of 0.
        keys = np.abs(keys)
    with stand_in_pool(library, threads):
        found = attention_by(library, query, keys, values, mask, 0.125, threads)
    assert np.isfinite(found[0, :2]).all()
    assert not np.isfinite(found[0, 2:]).all(axis=-1).any()


@pytest.mark.parametrize("tokens", [1, 40])
def test_hidden_cells_have_no_effect(library: ctypes.CDLL, tokens: int) -> None:
    """Damage in cells that the mask hides from all."""
    query, keys, values, mask = _prompt(np.random.default_rng(5), tokens)
    mask[..., 9] = -np.inf
    expected = attention_by(library, query, keys, values, mask, 0.125)
    keys[0, :, 9] = values[0, :, 9] = np.nan
    assert (attention_by(library, query, keys, values, mask, 0.125) == expected).all()


@pytest.mark.parametrize("tokens", [1, 40])
def test_cells_outside_of_a_window_are_not_read(library: ctypes.CDLL, tokens: int) -> None:
    """Damage in cells that no token's window reaches."""
    query, keys, values, mask = _prompt(np.random.default_rng(5), tokens)
    first = 80 - tokens
    for token in range(tokens):
        mask[..., token, : max(0, first + token - 7)] = -np.inf
    expected = attention_by(library, query, keys, values, mask, 0.125)
    keys[0, :, : first - 7] = values[0, :, : first - 7] = np.nan
    assert (attention_by(library, query, keys, values, mask, 0.125) == expected).all()


def test_tokens_of_a_window_are_the_same_whatever_runs_beside(library: ctypes.CDLL) -> None:
    """The tokens of a run and where its list of cells begins differ, and no result does, to the last bit."""
    query, keys, values, mask = _prompt(np.random.default_rng(5), 40)
    for token in range(40):
        mask[..., token, : 40 + token - 20] = -np.inf
    together = attention_by(library, query, keys, values, mask, 0.125)
    for first in (1, 7, 18):
        rest = attention_by(library, query[:, :, first:], keys, values, mask[:, :, first:], 0.125)
        assert (rest == together[:, :, first:]).all()


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("kind", [CacheType.F16, CacheType.Q8_0], ids=lambda kind: kind.name)
def test_replies_are_the_same_whatever_runs_beside(library: ctypes.CDLL, kind: CacheType, threads: int) -> None:
    """To the last bit: threads share out the cells of several sequences, and each token's parts keep their order."""
    random = np.random.default_rng(6)
    query = random.standard_normal((1, 4, 3, 64)).astype(np.float32)
    keys, values = (store_cells(random.standard_normal((1, 2, 4800, 64)).astype(np.float32), kind) for _ in range(2))
    owners = random.integers(0, 3, 4800)
    mask = np.where(owners == np.arange(3)[:, None], 0, -np.inf).astype(np.float16)[None, None]
    library.tailrace_kernels_set_exact_tokens(3)
    try:
        with stand_in_pool(library, threads):
            together = attention_by(library, query, keys, values, mask, 0.125, threads, (kind, kind))
            for token in range(3):
                one, one_mask = query[:, :, [token]], mask[:, :, [token]]
                alone = attention_by(library, one, keys, values, one_mask, 0.125, threads, (kind, kind))
                assert (alone[:, :, 0] == together[:, :, token]).all()
    finally:
        library.tailrace_kernels_set_exact_tokens(0)


def test_exact_tokens_that_the_work_memory_cannot_hold_at_once(library: ctypes.CDLL) -> None:
    """Tokens of many large heads are split and merged a few at a time, and are the same as one by one."""
    random = np.random.default_rng(7)
    query = random.standard_normal((1, 64, 9, 128)).astype(np.float32)
    keys, values = (random.standard_normal((1, 8, 80, 128)).astype(np.float16) for _ in range(2))
    mask = np.where(np.arange(80) <= 71 + np.arange(9)[:, None], 0, -np.inf).astype(np.float16)[None, None]
    library.tailrace_kernels_set_exact_tokens(9)
    try:
        with stand_in_pool(library):
            together = attention_by(library, query, keys, values, mask, 0.1, 2)
            for token in (0, 4, 8):
                one, one_mask = query[:, :, [token]], mask[:, :, [token]]
                assert (
                    attention_by(library, one, keys, values, one_mask, 0.1, 2)[:, :, 0] == together[:, :, token]
                ).all()
    finally:
        library.tailrace_kernels_set_exact_tokens(0)


def test_attention_without_a_mask(library: ctypes.CDLL) -> None:
    """Encoders of images have none, and any number of cells."""
    random = np.random.default_rng(8)
    query = random.standard_normal((1, 4, 37, 72)).astype(np.float32)
    keys, values = (random.standard_normal((1, 4, 37, 72)).astype(np.float16) for _ in range(2))
    expected = attention(query, keys, values, np.zeros((1, 1, 37, 37), np.float16), 0.1)
    found = attention_by(library, query, keys, values, None, 0.1)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_damage_stays_visible_beside_sinks_and_a_softcap(library: ctypes.CDLL) -> None:
    query, keys, values, mask = _prompt(np.random.default_rng(5), 3)
    keys[0, 1, 3, 7] = np.nan
    sinks = np.full(4, 50, np.float32)
    for softcap in (0.0, 30.0):
        found = attention_by(library, query, keys, values, mask, 0.125, sinks=sinks, softcap=softcap)
        assert np.isfinite(found[0, :2]).all()
        assert np.isnan(found[0, 2:]).all()


#: Shapes of query, keys, values and mask that are upstream's: heads that aren't a multiple of the key heads, a mask for
#: each head, dimensions that aren't a multiple of eight or exceed the buffers, and values of other cells than the keys.
_UPSTREAM_SHAPES = {
    "heads": ((1, 4, 1, 64), (1, 3, 32, 64), (1, 3, 32, 64), (1, 1, 1, 32)),
    "mask of heads": ((1, 4, 1, 64), (1, 2, 32, 64), (1, 2, 32, 64), (1, 4, 1, 32)),
    "short mask": ((1, 4, 1, 64), (1, 2, 32, 64), (1, 2, 32, 64), (1, 1, 1, 16)),
    "dimension": ((1, 4, 1, 68), (1, 2, 32, 68), (1, 2, 32, 68), (1, 1, 1, 32)),
    "large dimension": ((1, 4, 1, 640), (1, 2, 32, 640), (1, 2, 32, 640), (1, 1, 1, 32)),
    "values": ((1, 4, 1, 64), (1, 2, 32, 64), (1, 2, 16, 64), (1, 1, 1, 32)),
}


@pytest.mark.parametrize("shapes", _UPSTREAM_SHAPES.values(), ids=_UPSTREAM_SHAPES.keys())
def test_unsupported_attention_is_upstreams(library: ctypes.CDLL, shapes: tuple[tuple[int, ...], ...]) -> None:
    query = np.zeros(shapes[0], np.float32)
    tensors = [tensor_of(query), *(tensor_of(np.zeros(shape, np.float16)) for shape in shapes[1:])]
    found = np.zeros((1, 1, 4, shapes[2][-1]), np.float32)
    result = tensor_of(found)
    set_sources(result, *tensors)
    set_float_params(result, 0.125)
    delegated: list[int] = []
    upstream = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(lambda _, tensor: delegated.append(tensor))
    set_upstream(library, {"ggml_compute_forward_flash_attn_ext": upstream})
    try:
        params = compute_params()
        library.ggml_compute_forward_flash_attn_ext(pointer(params), pointer(result))
    finally:
        set_upstream(library, {})
    assert delegated == [result.address]
    assert not found.any()


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.skipif(not TILES, reason="this CPU has no tiles")
def test_attention_leaves_tiles_configured_as_they_were(tmp_path: Path) -> None:
    """llama.cpp's own products configure them once a thread."""
    sources = shutil.copytree(build.SOURCES, tmp_path / "kernels")
    (sources / "look.c").write_text(_LOOK, encoding="utf-8")
    source = Source("kernels", sources, lambda _: [], build.source().include)
    library = ctypes.CDLL(str(ensure_built(source, ALL_TIERS["amx"], tmp_path / "kept")))
    theirs = bytes([1, *[0] * 15, *[32, 0] * 4, *[0] * 24, *[8] * 4, *[0] * 12])
    seen = ctypes.create_string_buffer(64)
    assert library.configure(theirs)
    try:
        attention_by(library, *_prompt(np.random.default_rng(5), 40), 0.125)
        library.look(seen)
    finally:
        library.configure(bytes(64))
    assert seen.raw == theirs


_LOOK = r"""
#include "amx.h"
EXPORT bool configure(const struct tile_config *tiles) {
    if (!tailrace_kernels_amx_usable()) return false;
    tiles_end(*tiles);
    return true;
}
EXPORT void look(struct tile_config *tiles) { __asm__ volatile("sttilecfg\t%0" : "=m"(*tiles)); }
"""
