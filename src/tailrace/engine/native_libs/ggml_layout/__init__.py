"""ggml's structs as Python sees them: bytes, with the fields where a compiler found them in llama.cpp's headers.

``ggml_layout.c`` lists the fields that are used here. It has no instructions of a tier, so every machine can run it.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

from tailrace.engine.native_libs.ggml_headers import include_folders
from tailrace.engine.native_libs.library import Source, ensure_built
from tailrace.engine.native_libs.tiers import TIERS


class _Field(NamedTuple):
    offset: int
    size: int  #: bytes of all its elements
    elements: int  #: 1, or those of an array
    structure_size: int


class GgmlStruct:
    """One zeroed struct of ggml's in memory. Raises NativeUnavailable where the layout isn't known here."""

    def __init__(self, structure: str, **values: int | bytes | None) -> None:
        """``structure``: its name in C. ``values``: what ``set`` writes."""
        self._structure = structure
        first = next(iter(values))
        self._memory = bytearray(_field(structure, first).structure_size)
        #: Where the struct lies.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for field, value in values.items():
            self.set(field, value)

    def set(self, field: str, value: int | bytes | None, index: int = 0) -> None:
        """Write an integer, an address (None: a null pointer) or a string to a field, or to an element of an array."""
        found = _field(self._structure, field)
        if isinstance(value, bytes):
            if len(value) >= found.size:
                raise ValueError(f"{field} has no room for {len(value)} bytes")
            self._memory[found.offset : found.offset + len(value)] = value
            return
        at, size = self._element(found, field, index)
        number = value or 0
        self._memory[at : at + size] = number.to_bytes(size, "little", signed=number < 0)

    def get(self, field: str, index: int = 0) -> int:
        """The integer or the address in a field, or in an element of an array."""
        at, size = self._element(_field(self._structure, field), field, index)
        return int.from_bytes(self._memory[at : at + size], "little")

    def count(self, field: str) -> int:
        """The number of elements of a field that is an array."""
        return _field(self._structure, field).elements

    def _element(self, found: _Field, field: str, index: int) -> tuple[int, int]:
        if not 0 <= index < found.elements:
            raise IndexError(f"{field} has {found.elements} elements, and there is no number {index}")
        size = found.size // found.elements
        return found.offset + index * size, size


class GgmlView:
    """A struct of ggml's that lies at an address: its bytes are read when they are asked for."""

    def __init__(self, structure: str, address: int) -> None:
        self._structure, self._address = structure, address

    def get(self, field: str, index: int = 0) -> int:
        """The integer or the address in a field, or in an element of an array."""
        found = _field(self._structure, field)
        if not 0 <= index < found.elements:
            raise IndexError(f"{field} has {found.elements} elements, and there is no number {index}")
        size = found.size // found.elements
        return int.from_bytes(ctypes.string_at(self._address + found.offset + index * size, size), "little")

    def count(self, field: str) -> int:
        """The number of elements of a field that is an array."""
        return _field(self._structure, field).elements

    def memory(self, field: str = "data") -> bytes:
        """The bytes of the whole struct, which has this field."""
        return ctypes.string_at(self._address, _field(self._structure, field).structure_size)


def ggml_constant(name: str) -> int:
    """The value of a constant of ggml's headers."""
    value = int(_library().tailrace_ggml_constant(name.encode()))
    if value < 0:
        raise KeyError(f"ggml_layout.c lists no constant {name}")
    return value


def build_ggml_layout(cache: Path | None = None) -> Path:
    """The library that knows the layout, see ``ensure_built``. Raises NativeUnavailable."""
    return ensure_built(source(), TIERS["any"], cache)


def source() -> Source:
    """The C code that knows the layout. Raises NativeUnavailable where llama.cpp's headers are missing."""
    return Source("ggml-layout", Path(__file__).parent, lambda library: [], include_folders())


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_ggml_layout()))
    library.tailrace_ggml_field.restype = ctypes.c_bool
    return library


@functools.cache
def _field(structure: str, field: str) -> _Field:
    out = (ctypes.c_int64 * 4)()
    if not _library().tailrace_ggml_field(structure.encode(), field.encode(), out):
        raise KeyError(f"ggml_layout.c lists no field {field} of {structure}")
    return _Field(*out)
