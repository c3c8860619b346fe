"""NumPy arrays over llama.cpp's own memory of results: rows of logits and of hidden states.

``numpy.ctypeslib.as_array`` makes a ctypes type for each shape, and reference cycles with each call. Both would pile up
until the garbage collector's next run.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt


class _Memory:
    """Memory that NumPy makes an array of, without a copy."""

    def __init__(self, address: int, shape: tuple[int, int]) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": "<f4", "version": 3}


def rows_at(address: int | None, rows: int, width: int) -> npt.NDArray[np.float32]:
    """The rows of float32 at the address; none without an address."""
    if not rows or address is None:
        return np.empty((0, width), np.float32)
    return np.asarray(_Memory(address, (rows, width)))


def _returning_address(name: str, *parameters: type[ctypes.c_int32]) -> ctypes._NamedFuncPointer:
    """llama.cpp's function, which takes a context and ``parameters``, with a plain address as its result instead of a
    pointer object.
    """
    function: ctypes._NamedFuncPointer = llama._lib[name]
    function.argtypes = [ctypes.c_void_p, *parameters]
    function.restype = ctypes.c_void_p
    return function


get_logits = _returning_address("llama_get_logits")
get_embeddings = _returning_address("llama_get_embeddings")
#: Takes a context and a slot: the pooled result of the slot's tokens.
get_slot_result = _returning_address("llama_get_embeddings_seq", ctypes.c_int32)
