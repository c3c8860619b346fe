"""Functions of ggml and llama.cpp that the binding doesn't declare."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as llama
from llama_cpp._ggml import libggml as ggml


def ggml_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml with its types. Raises AttributeError where this build has no such function."""
    address = ctypes.cast(getattr(ggml, name), ctypes.c_void_p).value
    assert address is not None
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def llama_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of llama.cpp's own C++, by its mangled name; None where this build has none of this name."""
    try:
        address = ctypes.cast(getattr(llama._lib, name), ctypes.c_void_p).value
    except AttributeError:
        return None
    assert address is not None
    return ctypes.CFUNCTYPE(result, *arguments)(address)
