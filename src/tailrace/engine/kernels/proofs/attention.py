"""Attention by one thread and by two, over each type of the KV cache, against its formula in NumPy."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as CacheType
from gguf.quants import dequantize, quantize

from tailrace.engine.kernels.formats import cache_types_of
from tailrace.engine.kernels.proofs.bf16 import round_to_bf16
from tailrace.engine.kernels.proofs.random_weights import Bytes
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import cache_tensor, compute, set_float_params, set_sources, tensor_of

Numbers = npt.NDArray[np.floating]

#: Types of K and V. Only cells in 16-bit floats go through AMX tiles.
CACHE_TYPES = (
    (CacheType.F16, CacheType.F16),
    (CacheType.BF16, CacheType.BF16),
    (CacheType.Q8_0, CacheType.Q8_0),
    (CacheType.Q4_0, CacheType.Q4_0),
    (CacheType.Q8_0, CacheType.F16),
    (CacheType.F16, CacheType.Q4_0),
)

#: Head dimension, query heads, KV heads, tokens, streams, cells, and sequences whose cells lie between each other's (0:
#: each token sees random cells). Groups of heads that fill a block and that don't, remainders of tiles, few and many
#: work chunks, more cells than one window lists.
_SHAPES = (
    (64, 9, 3, 1, 1, 256, 0),
    (64, 9, 3, 5, 1, 336, 0),
    (64, 4, 2, 1, 4, 96, 0),
    (96, 2, 2, 40, 1, 112, 0),
    (128, 40, 1, 2, 1, 208, 0),
    (256, 4, 1, 3, 2, 64, 0),
    (64, 9, 3, 8, 1, 4688, 5),
    (128, 2, 1, 40, 1, 208, 3),
    (64, 9, 3, 12, 1, 4688, 5),
    (64, 9, 3, 100, 1, 1216, 1),
    (64, 4, 1, 3, 2, 8448, 1),
    (96, 4, 2, 43, 1, 208, 1),
    (128, 8, 2, 30, 1, 1280, 2),
    (256, 4, 1, 41, 2, 192, 1),
)
#: The same for the other types, which differ in how cells are loaded and in nothing else.
_SHAPES_OF_TYPES = (
    (64, 9, 3, 5, 1, 336, 0),
    (96, 2, 2, 40, 1, 112, 0),
    (96, 4, 2, 43, 1, 208, 1),
    (128, 8, 2, 7, 2, 208, 3),
    (256, 4, 1, 3, 2, 64, 0),
)
#: Of the largest result: in single precision; and in AMX tiles, where probabilities are rounded to bf16. What else is
#: rounded in tiles is rounded in the expected result, too.
_TOLERANCE, _TILE_TOLERANCE = 1e-5, 3e-3
#: The kernels' scores have base 2.
_LOG2_E = np.float32(1.44269504)
#: Rows of a run from which on tiles are used.
_MIN_TILE_ROWS = 12


def attention_is_right(library: ctypes.CDLL) -> bool:
    """Whether ``library`` computes every shape and type as the formula, with exact tokens and without. A library that
    leaves all attention to llama.cpp has nothing to prove.
    """
    if not cache_types_of(library):
        return True
    random = np.random.default_rng(11)
    library.tailrace_kernels_set_exact_tokens.argtypes = [ctypes.c_int64]
    with stand_in_pool(library):
        try:
            f16, *others = CACHE_TYPES
            return all(_agrees(library, random, f16, *shape) for shape in _SHAPES) and all(
                _agrees(library, random, types, *shape) for types in others for shape in _SHAPES_OF_TYPES
            )
        finally:
            library.tailrace_kernels_set_exact_tokens(0)


def _agrees(
    library: ctypes.CDLL,
    random: np.random.Generator,
    types: tuple[CacheType, CacheType],
    head_dim: int,
    heads: int,
    kv_heads: int,
    tokens: int,
    streams: int,
    cells: int,
    sequences: int,
) -> bool:
    query = random.standard_normal((streams, heads, tokens, head_dim)).astype(np.float32) * 3
    shape = (streams, kv_heads, cells, head_dim)
    k, v = (store_cells(random.standard_normal(shape).astype(np.float32), kind) for kind in types)
    keys, values = (stored_numbers(stored, kind) for stored, kind in zip((k, v), types, strict=True))
    mask = _mask(random, tokens, streams, cells, sequences)
    scale = head_dim**-0.5
    exact = attention(query, keys, values, mask, scale)
    longest_run = tokens - sequences + 1 if sequences else 1
    tiles = types == CACHE_TYPES[0] and longest_run * heads // kv_heads >= _MIN_TILE_ROWS
    rounded = _rounded_attention(query, keys, values, mask, scale) if tiles else exact
    largest = np.abs(exact).max()
    for threads, all_exact in itertools.product((1, 2), (False, True)):
        library.tailrace_kernels_set_exact_tokens(tokens if all_exact else 0)
        found = attention_by(library, query, k, v, mask, scale, threads, types)
        # For each stream and token: those of short runs don't go through tiles.
        error, tile_error = (np.abs(found - expected).max((1, 3)) for expected in (exact, rounded))
        right = error <= _TOLERANCE * largest
        if tiles and not all_exact:
            right |= tile_error <= _TILE_TOLERANCE * largest
        if not right.all():
            return False
    return True


def _mask(random: np.random.Generator, tokens: int, streams: int, cells: int, sequences: int) -> Numbers:
    sees = random.random((streams, 1, tokens, cells)) >= 0.3
    if sequences:
        # Each sequence but the last decodes one token; the last one has all others, as a prompt in the same pass.
        owners = np.minimum(np.arange(tokens), sequences - 1)
        before = np.arange(cells) < cells - tokens + np.arange(1, tokens + 1)[:, None]
        sees[:] = (random.integers(0, sequences, cells) == owners[:, None]) & before
    sees[..., cells // 2 :] &= bool(sequences)
    sees[-1, 0, -1] = False  # This token sees nothing at all.
    return np.where(sees, 0, -np.inf).astype(np.float16)


def attention(query: Numbers, keys: Numbers, values: Numbers, mask: Numbers, scale: float) -> Numbers:
    """The formula. Shapes: [stream, head, token or cell, head dimension], the mask [stream, 1, token, cell]."""
    group = query.shape[1] // keys.shape[1]
    keys, values = (np.repeat(part.astype(np.float64), group, axis=1) for part in (keys, values))
    scores = query.astype(np.float64) * scale @ keys.swapaxes(2, 3) + mask
    seen = np.isfinite(scores).any(-1, keepdims=True)
    weights = np.exp(np.where(seen, scores - np.where(seen, scores.max(-1, keepdims=True), 0), -np.inf))
    return weights @ values / np.where(seen, weights.sum(-1, keepdims=True), 1)


def _rounded_attention(query: Numbers, keys: Numbers, values: Numbers, mask: Numbers, scale: float) -> Numbers:
    """The formula with inputs that are rounded to bf16 as tiles have them."""
    scaled = round_to_bf16(query * (np.float32(scale) * _LOG2_E)) / _LOG2_E
    return attention(scaled, round_to_bf16(keys), round_to_bf16(values), mask, 1.0)


def store_cells(numbers: Numbers, kind: CacheType) -> Bytes:
    """Numbers as a cache of this type has them: bytes in the last dimension."""
    if kind == CacheType.F16:
        return numbers.astype(np.float16).view(np.uint8)
    stored: Bytes = quantize(numbers.astype(np.float32), kind).view(np.uint8)
    return stored


def stored_numbers(cells: Bytes, kind: CacheType) -> Numbers:
    """The numbers that such bytes mean."""
    if kind == CacheType.F16:
        return cells.view(np.float16)
    numbers: Numbers = dequantize(cells, kind)
    return numbers


def attention_by(
    library: ctypes.CDLL,
    query: Numbers,
    keys: Bytes | Numbers,
    values: Bytes | Numbers,
    mask: Numbers,
    scale: float,
    threads: int = 1,
    types: tuple[CacheType, CacheType] = CACHE_TYPES[0],
) -> Numbers:
    """The same by ``library``. Keys and values are bytes of cells of these types, or 16-bit floats. More than one
    thread needs a stand-in pool of as many.
    """
    streams, heads, tokens, head_dim = query.shape
    found = np.full((streams, tokens, heads, head_dim), np.nan, np.float32)
    cells = (cache_tensor(kind, part.view(np.uint8)) for part, kind in zip((keys, values), types, strict=True))
    sources = [tensor_of(query), *cells, tensor_of(mask)]
    result = tensor_of(found)
    set_sources(result, *sources)
    set_float_params(result, scale)
    compute(library.ggml_compute_forward_flash_attn_ext, result, threads)
    return found.transpose(0, 2, 1, 3)
