"""The memory that a context takes of each device, as llama.cpp reports it.

The function is llama.cpp's own C++ (``llama_get_memory_breakdown``, llama-ext.h). It returns a ``std::map`` of types
of buffers, which is read here as libstdc++ has it: a tree whose nodes have their value behind four words.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.llama.ggml_function import ggml_function, llama_function

_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
#: Types of buffers, at most: more can't be true.
_MAX_NODES = 64


class MemoryUse(NamedTuple):
    """Bytes of one device's memory."""

    cache: int  #: cells of the KV cache, and recurrent states
    compute: int  #: what a pass needs beside them


class _Map(ctypes.Structure):
    """``std::map`` of libstdc++. It is larger than two words, so a function returns it through a pointer."""

    _fields_ = (
        ("compare", ctypes.c_void_p),
        ("colour", ctypes.c_size_t),
        ("root", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    )


class _Node(ctypes.Structure):
    """A node of it, with llama.cpp's ``llama_memory_breakdown_data`` by type of buffer."""

    _fields_ = (
        ("colour", ctypes.c_size_t),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("buffer_type", ctypes.c_void_p),
        ("model", ctypes.c_size_t),
        ("context", ctypes.c_size_t),
        ("compute", ctypes.c_size_t),
    )


def memory_use(context: llama.llama_context_p) -> dict[int, MemoryUse] | None:
    """The memory of ``context``, by device; 0 is a device that isn't known. None where this llama.cpp doesn't list it.

    The map's nodes are never freed: a few of 64 bytes for each call.
    """
    tell = llama_function(_BREAKDOWN, _Map, ctypes.c_void_p)
    if tell is None:
        return None
    found: _Map = tell(ctypes.cast(context, ctypes.c_void_p))
    if found.count > _MAX_NODES:
        return None
    device_of = ggml_function("ggml_backend_buft_get_device", ctypes.c_void_p, ctypes.c_void_p)
    uses: dict[int, MemoryUse] = {}
    pending = [found.root] if found.count else []
    while pending:
        node = _Node.from_address(pending.pop())
        pending += [each for each in (node.left, node.right) if each]
        device = device_of(node.buffer_type) or 0
        before = uses.get(device, MemoryUse(0, 0))
        uses[device] = MemoryUse(before.cache + node.context, before.compute + node.compute)
    return uses
