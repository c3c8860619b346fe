"""Whether a built library's attention is what the formula says, by one thread and by two, against NumPy."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tailrace.engine.kernels.standin import linked, run_by, tensor_of

Numbers = npt.NDArray[np.floating]

#: Width, query heads, key heads, tokens, streams, cells, and sequences whose cells lie mixed (0: each token sees cells
#: of its own choice): groups that fit and that don't, rests of tiles, few and many units of work, more cells than are
#: listed at once.
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
#: Of the largest result: in single precision, and in tiles (AMX), where weights are rounded to bf16. What else is
#: rounded there is, too, in what they are compared with: otherwise that alone would be a hundredth.
_TOLERANCE, _TOLERANCE_OF_TILES = 1e-5, 3e-3
#: The kernels' scores are to base 2.
_LOG2_E = np.float32(1.44269504)
#: Rows of a run, at least, that tiles are used for.
_TILES_FROM = 12


def attention_is_right(library: ctypes.CDLL) -> bool:
    """Compare every shape, alone and by two threads. The library's links to llama.cpp are made anew after this."""
    random = np.random.default_rng(11)
    library.tailrace_kernels_set_exact_tokens.argtypes = [ctypes.c_int64]
    with linked(library):
        try:
            return all(_agrees(library, random, *shape) for shape in _SHAPES)
        finally:
            library.tailrace_kernels_set_exact_tokens(0)


def _agrees(
    library: ctypes.CDLL,
    random: np.random.Generator,
    width: int,
    heads: int,
    key_heads: int,
    tokens: int,
    streams: int,
    cells: int,
    sequences: int,
) -> bool:
    query = random.standard_normal((streams, heads, tokens, width)).astype(np.float32) * 3
    keys, values = (random.standard_normal((streams, key_heads, cells, width)).astype(np.float16) for _ in range(2))
    sees = random.random((streams, 1, tokens, cells)) >= 0.3
    if sequences:
        # The first ones have a token each, the last one has all others: a prompt that is read beside replies.
        owners = np.minimum(np.arange(tokens), sequences - 1)
        before = np.arange(cells) < cells - tokens + np.arange(1, tokens + 1)[:, None]
        sees[:] = (random.integers(0, sequences, cells) == owners[:, None]) & before
    sees[..., cells // 2 :] &= bool(sequences)
    sees[-1, 0, -1] = False  # It sees nothing at all.
    mask = np.where(sees, 0, -np.inf).astype(np.float16)
    scale = width**-0.5
    exact = attention(query, keys, values, mask, scale)
    longest = tokens - sequences + 1 if sequences else 1
    tiles = longest * heads // key_heads >= _TILES_FROM
    scaled = query * (np.float32(scale) * _LOG2_E)
    rounded = attention(_bf16(scaled) / _LOG2_E, _bf16(keys), _bf16(values), mask, 1.0) if tiles else exact
    largest = np.abs(exact).max()
    for threads, alike in itertools.product((1, 2), (False, True)):
        library.tailrace_kernels_set_exact_tokens(tokens if alike else 0)
        found = attended(library, query, keys, values, mask, scale, threads)
        # Of each stream and token, because those of short runs don't go through tiles.
        error, of_tiles = (np.abs(found - expected).max((1, 3)) for expected in (exact, rounded))
        right = error <= _TOLERANCE * largest
        if tiles and not alike:
            right |= of_tiles <= _TOLERANCE_OF_TILES * largest
        if not right.all():
            return False
    return True


def _bf16(numbers: Numbers) -> npt.NDArray[np.float32]:
    """The nearest numbers of 8 bits, the even one of two."""
    bits = numbers.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def attention(query: Numbers, keys: Numbers, values: Numbers, mask: Numbers, scale: float) -> Numbers:
    """The formula. All are [stream, head, token or cell, of the width], the mask [stream, 0, token, cell]."""
    group = query.shape[1] // keys.shape[1]
    keys, values = (np.repeat(part.astype(np.float64), group, axis=1) for part in (keys, values))
    scores = query.astype(np.float64) * scale @ keys.swapaxes(2, 3) + mask
    seen = np.isfinite(scores).any(-1, keepdims=True)
    weights = np.exp(np.where(seen, scores - np.where(seen, scores.max(-1, keepdims=True), 0), -np.inf))
    return weights @ values / np.where(seen, weights.sum(-1, keepdims=True), 1)


def attended(
    library: ctypes.CDLL,
    query: Numbers,
    keys: Numbers,
    values: Numbers,
    mask: Numbers,
    scale: float,
    threads: int = 1,
) -> Numbers:
    """The same by ``library``, which has links to a pool if it is more than one thread."""
    streams, heads, tokens, width = query.shape
    found = np.full((streams, tokens, heads, width), np.nan, np.float32)
    _run(library, threads, [query, keys, values, mask], found, scale)
    return found.transpose(0, 2, 1, 3)


def _run(library: ctypes.CDLL, threads: int, sources: Sequence[Numbers], result: Numbers, scale: float) -> None:
    tensors = [tensor_of(array) for array in (*sources, result)]
    last = tensors[-1]
    for index, tensor in enumerate(tensors[:-1]):
        last.sources[index] = ctypes.addressof(tensor)
    last.parameters[0] = int(np.float32(scale).view(np.int32))
    run_by(threads, library.ggml_compute_forward_flash_attn_ext, last)
