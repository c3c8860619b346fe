"""One GGUF file's header, read byte by byte: every value but arrays, and what each tensor is.

Reads the header itself, because the gguf library's reader maps every array into objects first (1.7 s for a vocabulary
of 49k; this takes a few hundredths). Never looks at weights. A model may have several files (``shards``).
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

import msgspec

from tailrace.errors import ModelError

Value = int | float | bool | str | None

_MAGIC = b"GGUF"
#: Version 1 had 32-bit lengths; nothing has written it since 2023.
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
#: GGUF's type number → how struct reads it.
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
#: More dimensions than this is no tensor of ggml.
_MAX_DIMENSIONS = 4
#: Arrays in arrays are allowed and nobody writes them; this is where a crafted file is stopped.
_MAX_DEPTH = 4
#: Where tensors start unless the file says otherwise: at a multiple of this, in bytes.
_ALIGNMENT = 32


class Tensor(msgspec.Struct, frozen=True):
    """A tensor of a model's file."""

    name: str
    kind: int  #: ggml's number of its format
    sizes: tuple[int, ...]  #: its dimensions, that of a row first

    @property
    def weights(self) -> int:
        """How many numbers it has."""
        return math.prod(self.sizes)


class FileHeader(msgspec.Struct, frozen=True):
    """What one file's header says."""

    values: dict[str, Value]  #: by key, except for arrays
    tensors: tuple[Tensor, ...]


def read_file(path: Path) -> FileHeader:
    """Read a file's header. Raises ModelError when it can't be read or isn't a whole GGUF header."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header()
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    except (struct.error, ValueError, OverflowError) as error:
        # ValueError is also what mmap says to an empty file, and what text that isn't UTF-8 raises.
        raise ModelError(f"{path} isn't a whole GGUF file ({error}). Fetch or copy it again") from error


class _Reader:
    """A cursor over a header. Its methods raise struct.error, ValueError or OverflowError on what no header has."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._last_tensor = 0

    def header(self) -> FileHeader:
        if self._data[:4] != _MAGIC:
            raise ValueError("it doesn't start with GGUF")
        self._at = 4
        version = self._take(_U32)
        if version not in _VERSIONS:
            raise ValueError(f"its format version is {version}, not 2 or 3")
        tensors, pairs = self._take(_U64), self._take(_U64)
        values: dict[str, Value] = {}
        for _ in range(pairs):
            key = self._string()
            values[key] = self._value(self._take(_U32))
        read = tuple(self._tensor() for _ in range(tensors))
        alignment = values.get("general.alignment") or _ALIGNMENT
        if not isinstance(alignment, int):
            raise ValueError("its alignment is no number")
        # The size of the last tensor isn't worked out, but a download that broke off rarely ends within it.
        if tensors and -(-self._at // alignment) * alignment + self._last_tensor >= len(self._data):
            raise ValueError("it ends before its last tensor")
        return FileHeader({key: value for key, value in values.items() if value is not None}, read)

    def _take(self, kind: struct.Struct) -> int:
        (value,) = kind.unpack_from(self._data, self._at)
        self._at += kind.size
        return int(value)

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("it ends too early")

    def _string(self) -> str:
        length = self._take(_U64)
        start = self._at
        self._skip(length)
        return self._data[start : self._at].decode("utf-8")

    def _value(self, kind: int) -> Value:
        """A single value; arrays are passed over, for None of them is told."""
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            self._skip_array()
            return None
        scalar = _scalar(kind)
        (value,) = scalar.unpack_from(self._data, self._at)
        self._at += scalar.size
        return value  # type: ignore[no-any-return]  # struct's results have no type

    def _skip_array(self, depth: int = 1) -> None:
        kind, count = self._take(_U32), self._take(_U64)
        if kind == _STRING:
            # The one loop that runs for every word of the vocabulary, hence without the methods above.
            data, at, unpack = self._data, self._at, _U64.unpack_from
            for _ in range(count):
                at += 8 + unpack(data, at)[0]
            self._at = at
            self._skip(0)
        elif kind == _ARRAY:
            if depth == _MAX_DEPTH:
                raise ValueError("its arrays are nested too deep")
            for _ in range(count):
                self._skip_array(depth + 1)
        else:
            self._skip(_scalar(kind).size * count)

    def _tensor(self) -> Tensor:
        name = self._string()
        dimensions = self._take(_U32)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions")
        sizes = tuple(self._take(_U64) for _ in range(dimensions))
        kind = self._take(_U32)
        self._last_tensor = max(self._last_tensor, self._take(_U64))
        return Tensor(name, kind, sizes)


def _scalar(kind: int) -> struct.Struct:
    if kind not in _SCALARS:
        raise ValueError(f"it has a value of the unknown type {kind}")
    return _SCALARS[kind]
