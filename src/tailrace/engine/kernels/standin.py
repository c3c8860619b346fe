"""What the proofs put in llama.cpp's place: tensors, a pool of two threads, and calls of an operation by them."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

_F32, _F16 = 0, 1
#: Bytes of work memory of a call.
_WORK = 1 << 18


class Call(ctypes.Structure):
    """``struct ggml_compute_params`` (ggml-cpu-impl.h)."""

    _fields_ = (
        ("thread", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("work_size", ctypes.c_size_t),
        ("work", ctypes.c_void_p),
        ("pool", ctypes.c_void_p),
    )


class Tensor(ctypes.Structure):
    """``struct ggml_tensor`` (ggml.h)."""

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
        ("name", ctypes.c_char * 64),
    )


_SET = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
_ADD = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_WAIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_USAGE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


def upstream_names(library: ctypes.CDLL) -> list[str]:
    """The functions of llama.cpp that ``library`` calls."""
    library.tailrace_kernels_upstream_name.restype = ctypes.c_char_p
    names = iter(library.tailrace_kernels_upstream_name(index) for index in itertools.count())
    return [name.decode() for name in itertools.takewhile(bool, names)]


def set_upstream(library: ctypes.CDLL, functions: Mapping[str, ctypes._CData]) -> None:
    """Have ``library`` call ``functions`` in llama.cpp's place, and know no others. The caller keeps them alive."""
    library.tailrace_kernels_set_upstream.restype = ctypes.c_bool
    library.tailrace_kernels_set_upstream.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    names = upstream_names(library)
    assert set(functions) <= set(names), set(functions) - set(names)
    for name in names:
        function = functions.get(name)
        address = None if function is None else ctypes.cast(function, ctypes.c_void_p)
        assert library.tailrace_kernels_set_upstream(name.encode(), address)


class Pool:
    """What the kernels need of a pool of threads, and of a buffer, whose usage is its address."""

    def __init__(self, threads: int = 2) -> None:
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(threads)
        self._next = 0
        self.functions: dict[str, ctypes._CData] = {
            "ggml_threadpool_chunk_set": _SET(self._set),
            "ggml_threadpool_chunk_add": _ADD(self._add),
            "ggml_barrier": _WAIT(self._wait),
            "ggml_backend_buffer_get_usage": _USAGE(lambda buffer: buffer or 0),
        }

    def _set(self, _: int | None, value: int) -> None:
        self._next = value

    def _add(self, _: int | None, value: int) -> int:
        with self._lock:
            self._next += value
            return self._next - value

    def _wait(self, _: int | None) -> None:
        self._barrier.wait(60)


@contextmanager
def linked(library: ctypes.CDLL, threads: int = 2) -> Iterator[None]:
    """``library`` calls a pool of so many threads, and after this nothing of llama.cpp."""
    pool = Pool(threads)
    set_upstream(library, pool.functions)
    try:
        yield
    finally:
        set_upstream(library, {})


def tensor_of(array: npt.NDArray[np.floating]) -> Tensor:
    """One of 32-bit or 16-bit floats, with all of the array's dimensions, the last one first."""
    tensor = Tensor(type=_F16 if array.dtype == np.float16 else _F32, data=array.ctypes.data)
    tensor.sizes[:] = array.shape[::-1]
    tensor.strides[:] = array.strides[::-1]
    return tensor


def run_by(threads: int, operation: Callable[..., object], result: Tensor) -> None:
    """Have so many threads compute ``result``."""
    work = np.zeros(_WORK, np.uint8)

    def run(thread: int) -> None:
        call = Call(thread, threads, work.nbytes, work.ctypes.data, None)
        operation(ctypes.byref(call), ctypes.byref(result))

    others = [threading.Thread(target=run, args=(thread,)) for thread in range(1, threads)]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()
