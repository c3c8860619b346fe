"""Functions that take llama.cpp's place while a library of kernels is proved or tested."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_CHUNK_SET = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
_CHUNK_ADD = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_BARRIER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_BUFFER_USAGE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


def upstream_names(library: ctypes.CDLL) -> list[str]:
    """The functions of llama.cpp that ``library`` calls."""
    library.tailrace_kernels_upstream_name.restype = ctypes.c_char_p
    names = iter(library.tailrace_kernels_upstream_name(index) for index in itertools.count())
    return [name.decode() for name in itertools.takewhile(bool, names)]


def set_upstream(library: ctypes.CDLL, functions: Mapping[str, ctypes._CData]) -> None:
    """Let ``library`` call ``functions`` in llama.cpp's place, and no others. The caller keeps them alive."""
    library.tailrace_kernels_set_upstream.restype = ctypes.c_bool
    library.tailrace_kernels_set_upstream.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    names = upstream_names(library)
    assert set(functions) <= set(names), set(functions) - set(names)
    for name in names:
        function = functions.get(name)
        address = None if function is None else ctypes.cast(function, ctypes.c_void_p)
        assert library.tailrace_kernels_set_upstream(name.encode(), address)


class ThreadPool:
    """What the kernels need of ggml's thread pool, for any number of threads, and of a buffer: its usage, for which the
    buffer's address stands.
    """

    def __init__(self, threads: int = 2) -> None:
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(threads)
        self._next_chunk = 0
        self.functions: dict[str, ctypes._CData] = {
            "ggml_threadpool_chunk_set": _CHUNK_SET(self._set),
            "ggml_threadpool_chunk_add": _CHUNK_ADD(self._add),
            "ggml_barrier": _BARRIER(self._wait),
            "ggml_backend_buffer_get_usage": _BUFFER_USAGE(lambda buffer: buffer or 0),
        }

    def _set(self, _: int | None, value: int) -> None:
        self._next_chunk = value

    def _add(self, _: int | None, value: int) -> int:
        with self._lock:
            self._next_chunk += value
            return self._next_chunk - value

    def _wait(self, _: int | None) -> None:
        self._barrier.wait(60)


@contextmanager
def stand_in_pool(
    library: ctypes.CDLL, threads: int = 2, others: Mapping[str, ctypes._CData] | None = None
) -> Iterator[None]:
    """Inside the block ``library`` calls a thread pool of so many threads and ``others``; after it, no function of
    llama.cpp.
    """
    pool = ThreadPool(threads)
    set_upstream(library, {**pool.functions, **(others or {})})
    try:
        yield
    finally:
        set_upstream(library, {})
