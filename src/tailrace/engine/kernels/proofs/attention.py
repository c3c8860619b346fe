"""Attention by one thread and by two, over each type of the KV cache, against its formula in NumPy."""

from __future__ import annotations

import ctypes
import functools
import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as CacheType
from gguf.quants import dequantize, quantize

from tailrace.engine.kernels.proofs.bf16 import round_to_bf16
from tailrace.engine.kernels.proofs.random_weights import Bytes
from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import cache_tensor, compute, set_float_params, tensor_of

Numbers = npt.NDArray[np.floating]

#: Types of K and V.
CACHE_TYPES = (
    (CacheType.F16, CacheType.F16),
    (CacheType.BF16, CacheType.BF16),
    (CacheType.Q8_0, CacheType.Q8_0),
    (CacheType.Q4_0, CacheType.Q4_0),
    (CacheType.Q8_0, CacheType.F16),
    (CacheType.F16, CacheType.Q4_0),
)
#: Those whose products are of 16-bit words.
QUANTISED_TYPES = frozenset((CacheType.Q8_0, CacheType.Q4_0))


class AttentionShape(NamedTuple):
    """The shape of an operation, and what a model adds to its scores."""

    head_dim: int
    heads: int
    kv_heads: int
    tokens: int
    streams: int
    cells: int
    sequences: int  #: whose cells lie between each other's; 0: each token sees random cells
    value_dim: int = 0  #: 0: as ``head_dim``
    window: int = 0  #: cells that a token sees at most; 0: all before it
    sinks: bool = False
    softcap: float = 0.0
    alibi_bias: float = 0.0


#: Groups of heads that fill a block and that don't, remainders of tiles, few and many work chunks, more cells than one
#: window lists.
_SHAPES = (
    AttentionShape(64, 9, 3, 1, 1, 256, 0),
    AttentionShape(64, 9, 3, 5, 1, 336, 0),
    AttentionShape(64, 4, 2, 1, 4, 96, 0),
    AttentionShape(96, 2, 2, 40, 1, 112, 0),
    AttentionShape(128, 40, 1, 2, 1, 208, 0),
    AttentionShape(256, 4, 1, 3, 2, 64, 0),
    AttentionShape(64, 9, 3, 8, 1, 4688, 5),
    AttentionShape(128, 2, 1, 40, 1, 208, 3),
    AttentionShape(64, 9, 3, 12, 1, 4688, 5),
    AttentionShape(64, 9, 3, 100, 1, 1216, 1),
    AttentionShape(64, 4, 1, 3, 2, 8448, 1),
    AttentionShape(96, 4, 2, 43, 1, 208, 1),
    AttentionShape(128, 8, 2, 30, 1, 1280, 2),
    AttentionShape(256, 4, 1, 41, 2, 192, 1),
    # Other dimensions of heads, some of which don't fill a vector; and cells that don't fill a word of the mask.
    *(AttentionShape(dim, 6, 2, 3, 1, 80, 1) for dim in (8, 16, 32, 40, 72, 80, 88, 112, 160, 192, 320, 512)),
    AttentionShape(80, 4, 2, 41, 1, 101, 1),
    # Multi-head latent attention: few and many heads over one key head whose values are the beginning of its keys.
    AttentionShape(576, 3, 1, 2, 1, 80, 1, value_dim=512),
    AttentionShape(576, 20, 1, 3, 1, 144, 1, value_dim=512),
    AttentionShape(576, 16, 1, 43, 2, 592, 1, value_dim=512),
    AttentionShape(192, 4, 2, 40, 1, 80, 1, value_dim=128),
    # Sliding windows, of a prompt and of replies beside it.
    AttentionShape(64, 8, 2, 40, 1, 208, 1, window=48),
    AttentionShape(128, 2, 1, 9, 1, 4400, 4, window=100),
    # What models add.
    AttentionShape(64, 16, 2, 3, 1, 160, 2, sinks=True),
    AttentionShape(64, 16, 2, 45, 1, 160, 1, sinks=True, window=20),
    AttentionShape(256, 4, 2, 3, 1, 160, 2, softcap=50.0),
    AttentionShape(96, 4, 2, 41, 1, 96, 1, softcap=5.0, window=30),
    AttentionShape(64, 12, 12, 3, 1, 160, 2, alibi_bias=8.0),
    AttentionShape(128, 6, 3, 41, 2, 90, 1, alibi_bias=8.0, softcap=20.0, sinks=True),
)
#: The same for the other types, which differ in how cells are loaded and multiplied.
_SHAPES_OF_TYPES = (
    AttentionShape(32, 4, 4, 2, 1, 48, 0),
    AttentionShape(64, 9, 3, 5, 1, 336, 0),
    AttentionShape(96, 2, 2, 40, 1, 112, 0),
    AttentionShape(96, 4, 2, 43, 1, 208, 1, sinks=True, window=30),
    AttentionShape(64, 9, 3, 100, 1, 1216, 1),
    AttentionShape(256, 4, 1, 41, 2, 192, 1),
    AttentionShape(128, 8, 2, 7, 2, 208, 3, softcap=20.0, alibi_bias=8.0),
    AttentionShape(160, 5, 1, 1, 1, 80, 1),
    AttentionShape(256, 4, 1, 3, 2, 64, 0),
    AttentionShape(576, 10, 1, 2, 1, 80, 1, value_dim=512),
    AttentionShape(576, 5, 1, 41, 1, 80, 1, value_dim=512),
)
#: Of the largest result: in single precision; in 16-bit words; and in AMX tiles, where probabilities are rounded to
#: bf16. What else is rounded in tiles is rounded in the expected result, too.
_TOLERANCE, _WORD_TOLERANCE, _TILE_TOLERANCE = 1e-5, 2e-4, 3e-3
#: The kernels' scores have base 2.
_LOG2_E = np.float32(1.44269504)
#: Rows of a run from which on tiles are used, and the dimensions of keys and values that they have.
_MIN_TILE_ROWS = 12
_TILE_DIMS = ((64, 64), (96, 96), (128, 128), (256, 256), (576, 512), (192, 128))


def attention_is_right(library: ctypes.CDLL) -> bool:
    """Whether ``library`` computes every shape and type as the formula, with exact tokens and without."""
    random = np.random.default_rng(11)
    library.tailrace_kernels_set_exact_tokens.argtypes = [ctypes.c_int64]
    library.tailrace_kernels_amx_usable.restype = ctypes.c_bool
    with stand_in_pool(library):
        try:
            f16, *others = CACHE_TYPES
            return all(_agrees(library, random, f16, shape) for shape in _SHAPES) and all(
                _agrees(library, random, types, shape) for types in others for shape in _SHAPES_OF_TYPES
            )
        finally:
            library.tailrace_kernels_set_exact_tokens(0)


def _agrees(
    library: ctypes.CDLL, random: np.random.Generator, types: tuple[CacheType, CacheType], shape: AttentionShape
) -> bool:
    query = random.standard_normal((shape.streams, shape.heads, shape.tokens, shape.head_dim)).astype(np.float32) * 3
    k, v = (
        store_cells(random.standard_normal((shape.streams, shape.kv_heads, shape.cells, dim)).astype(np.float32), kind)
        for dim, kind in zip((shape.head_dim, shape.value_dim or shape.head_dim), types, strict=True)
    )
    if shape.kv_heads == 1 and shape.value_dim and types[0] == types[1]:
        v = k[..., : v.shape[-1]]  # As with latent attention.
    keys, values = (
        stored_numbers(np.ascontiguousarray(stored), kind) for stored, kind in zip((k, v), types, strict=True)
    )
    mask = _mask(random, shape)
    sinks = random.standard_normal(shape.heads).astype(np.float32) * 3 if shape.sinks else None
    scale = shape.head_dim**-0.5
    expected_of = functools.partial(
        attention, mask=mask, sinks=sinks, softcap=shape.softcap, alibi_bias=shape.alibi_bias
    )
    exact = expected_of(query, keys, values, scale=scale)
    longest_run = shape.tokens - shape.sequences + 1 if shape.sequences else 1
    tiles = (
        library.tailrace_kernels_amx_usable()
        and longest_run * shape.heads // shape.kv_heads >= _MIN_TILE_ROWS
        and (shape.head_dim, shape.value_dim or shape.head_dim) in _TILE_DIMS
        and not shape.softcap
        and not shape.alibi_bias
    )
    rounded = exact
    if tiles:
        # Inputs that are rounded to bf16 as tiles have them.
        scaled = round_to_bf16(query * (np.float32(scale) * _LOG2_E)) / _LOG2_E
        rounded = expected_of(scaled, round_to_bf16(keys), round_to_bf16(values), scale=1.0)
    largest = np.abs(exact).max()
    quantised = not QUANTISED_TYPES.isdisjoint(types)
    for threads, all_exact in itertools.product((1, 2), (False, True)):
        library.tailrace_kernels_set_exact_tokens(shape.tokens if all_exact else 0)
        found = attention_by(
            library, query, k, v, mask, scale, threads, types, sinks, softcap=shape.softcap, alibi_bias=shape.alibi_bias
        )
        # For each stream and token: those of short runs don't go through tiles.
        error, tile_error = (np.abs(found - expected).max((1, 3)) for expected in (exact, rounded))
        right = error <= (_WORD_TOLERANCE if quantised else _TOLERANCE) * largest
        if tiles and not all_exact:
            right |= tile_error <= _TILE_TOLERANCE * largest
        if not right.all():
            return False
    return True


def _mask(random: np.random.Generator, shape: AttentionShape) -> Numbers:
    tokens, cells, sequences = shape.tokens, shape.cells, shape.sequences
    sees = random.random((shape.streams, 1, tokens, cells)) >= 0.3
    distances = np.abs(np.arange(cells) - (cells - tokens + np.arange(tokens))[:, None])
    if sequences:
        # Each sequence but the last decodes one token; the last one has all others, as a prompt in the same pass.
        owners = np.minimum(np.arange(tokens), sequences - 1)
        before = np.arange(cells) < cells - tokens + np.arange(1, tokens + 1)[:, None]
        sees[:] = (random.integers(0, sequences, cells) == owners[:, None]) & before
        if shape.window:
            sees &= distances < shape.window
    sees[..., cells // 2 :] &= bool(sequences)
    sees[-1, 0, -1] = False  # This token sees nothing at all.
    return np.where(sees, -distances if shape.alibi_bias else 0, -np.inf).astype(np.float16)


def attention(
    query: Numbers,
    keys: Numbers,
    values: Numbers,
    mask: Numbers,
    scale: float,
    sinks: Numbers | None = None,
    softcap: float = 0.0,
    alibi_bias: float = 0.0,
) -> Numbers:
    """The formula. Shapes: [stream, head, token or cell, head dimension], the mask [stream, 1, token, cell]. With ALiBi
    the mask holds minus each cell's distance. ``sinks`` has a score without a value for each head.
    """
    streams, heads, tokens, _ = query.shape
    # The heads of a group are rows of one product, for they have the same keys and values.
    grouped = (streams, keys.shape[1], -1)
    scores = query.astype(np.float64).reshape(*grouped, query.shape[3]) * scale @ keys.astype(np.float64).swapaxes(2, 3)
    scores = scores.reshape(streams, heads, tokens, -1)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    hidden = np.isneginf(mask)
    slopes = _alibi_slopes(heads, alibi_bias)[:, None, None] if alibi_bias else 1.0
    scores = np.where(hidden, -np.inf, scores + slopes * np.where(hidden, 0.0, mask.astype(np.float64)))
    seen = np.isfinite(scores).any(-1, keepdims=True)
    largest = scores.max(-1, keepdims=True)
    if sinks is not None:
        largest = np.maximum(largest, sinks.astype(np.float64)[:, None, None])
    weights = np.exp(np.where(seen, scores - np.where(seen, largest, 0), -np.inf))
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks.astype(np.float64)[:, None, None] - largest)
    summed = weights.reshape(*grouped, weights.shape[3]) @ values.astype(np.float64)
    return summed.reshape(streams, heads, tokens, -1) / np.where(seen, total, 1)


def _alibi_slopes(heads: int, bias: float) -> Numbers:
    """The slope of each head (Press et al., "Train short, test long", 2022)."""
    power = 1 << (heads.bit_length() - 1)
    first = 2.0 ** (-bias * np.arange(1, power + 1) / power)
    rest = 2.0 ** (-bias / 2 * np.arange(1, 2 * (heads - power), 2) / power)
    slopes: Numbers = np.concatenate((first, rest))
    return slopes


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
    mask: Numbers | None,
    scale: float,
    threads: int = 1,
    types: tuple[CacheType, CacheType] = CACHE_TYPES[0],
    sinks: Numbers | None = None,
    *,
    softcap: float = 0.0,
    alibi_bias: float = 0.0,
) -> Numbers:
    """The same by ``library``. Keys and values are bytes of cells of these types, or 16-bit floats. More than one
    thread needs a stand-in pool of as many.
    """
    streams, heads, tokens, _ = query.shape
    cells = [cache_tensor(kind, part.view(np.uint8)) for part, kind in zip((keys, values), types, strict=True)]
    found = np.full((streams, tokens, heads, cells[1].get("ne", 0)), np.nan, np.float32)
    result = tensor_of(found)
    sources = {0: tensor_of(query), 1: cells[0], 2: cells[1]}
    if mask is not None:
        sources[3] = tensor_of(mask)
    if sinks is not None:
        sources[4] = tensor_of(sinks[None, None, None])
    for index, source in sources.items():
        result.set("src", source.address, index)
    set_float_params(result, scale, alibi_bias, softcap)
    compute(library.ggml_compute_forward_flash_attn_ext, result, threads)
    return found.transpose(0, 2, 1, 3)
