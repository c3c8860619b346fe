"""Whether a built library's attention is what the formula says, by one thread and by two, against NumPy."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

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
)
_TOLERANCE = 1e-5
_F32, _F16 = 0, 1


class Call(ctypes.Structure):
    """``struct call`` of abi.h."""

    _fields_ = (
        ("thread", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("work_size", ctypes.c_size_t),
        ("work", ctypes.c_void_p),
        ("pool", ctypes.c_void_p),
    )


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("sizes", ctypes.c_int64 * 4),
        ("strides", ctypes.c_size_t * 4),
        ("operation", ctypes.c_int),
        ("parameters", ctypes.c_int * 16),
        ("flags", ctypes.c_int),
        ("sources", ctypes.c_void_p * 10),
        ("view_of", ctypes.c_void_p),
        ("view_at", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
    )


_SET = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
_ADD = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_WAIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Theirs(ctypes.Structure):
    _fields_ = (
        ("product", ctypes.c_void_p),
        ("tiled", ctypes.c_void_p),
        ("attention", ctypes.c_void_p),
        ("pool_set", _SET),
        ("pool_add", _ADD),
        ("pool_wait", _WAIT),
        ("threads", ctypes.c_void_p),
    )


class _Pool:
    """What the kernels need of a pool of two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(2)
        self._next = 0
        self.functions = _Theirs(None, None, None, _SET(self._set), _ADD(self._add), _WAIT(self._wait))

    def _set(self, _: int | None, value: int) -> None:
        self._next = value

    def _add(self, _: int | None, value: int) -> int:
        with self._lock:
            self._next += value
            return self._next - value

    def _wait(self, _: int | None) -> None:
        self._barrier.wait(10)


def attention_is_right(library: ctypes.CDLL) -> bool:
    """Compare every shape, alone and by two threads. The library's links to llama.cpp are made anew after this."""
    random = np.random.default_rng(11)
    pool = _Pool()
    library.tailrace_kernels_theirs(ctypes.byref(pool.functions))
    try:
        return all(_agrees(library, random, *shape) for shape in _SHAPES)
    finally:
        library.tailrace_kernels_theirs(ctypes.byref(_Theirs()))


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
    expected = _attention(query, keys, values, mask, width**-0.5)
    for threads in (1, 2):
        found = np.full((streams, tokens, heads, width), np.nan, np.float32)
        _run(library, threads, [query, keys, values, mask], found, width**-0.5)
        if not np.abs(found.transpose(0, 2, 1, 3) - expected).max() <= _TOLERANCE * np.abs(expected).max():
            return False
    return True


def _attention(query: Numbers, keys: Numbers, values: Numbers, mask: Numbers, scale: float) -> Numbers:
    group = query.shape[1] // keys.shape[1]
    keys, values = (np.repeat(part.astype(np.float64), group, axis=1) for part in (keys, values))
    scores = query.astype(np.float64) * scale @ keys.swapaxes(2, 3) + mask
    seen = np.isfinite(scores).any(-1, keepdims=True)
    weights = np.exp(np.where(seen, scores - np.where(seen, scores.max(-1, keepdims=True), 0), -np.inf))
    return weights @ values / np.where(seen, weights.sum(-1, keepdims=True), 1)


def _run(library: ctypes.CDLL, threads: int, sources: Sequence[Numbers], result: Numbers, scale: float) -> None:
    tensors = [_tensor(array) for array in (*sources, result)]
    last = tensors[-1]
    for index, tensor in enumerate(tensors[:-1]):
        last.sources[index] = ctypes.addressof(tensor)
    last.parameters[0] = int(np.float32(scale).view(np.int32))
    work = np.zeros(1 << 16, np.float32)

    def run(thread: int) -> None:
        call = Call(thread, threads, work.nbytes, work.ctypes.data, None)
        library.ggml_compute_forward_flash_attn_ext(ctypes.byref(call), ctypes.byref(last))

    others = [threading.Thread(target=run, args=(thread,)) for thread in range(1, threads)]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()


def _tensor(array: Numbers) -> _Tensor:
    tensor = _Tensor(type=_F16 if array.dtype == np.float16 else _F32, data=array.ctypes.data)
    tensor.sizes[:] = array.shape[::-1]
    tensor.strides[:] = array.strides[::-1]
    return tensor
