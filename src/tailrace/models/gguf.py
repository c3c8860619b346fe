"""What a GGUF file says of itself, read from its header alone: enough to list models and to refuse a broken file.

Reads the header itself, because the gguf library's reader maps every array into objects first (1.7 s for a vocabulary
of 49k; this takes a few hundredths). Never looks at weights.
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


class GgufFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one file; None where it doesn't say."""

    architecture: str
    name: str | None
    quantisation: str | None  #: of most of its weights, such as ``Q4_K_M``
    parameters: int
    context: int | None  #: tokens that it was trained for
    chat_template: bool  #: whether it has one
    token_bytes: int | None  #: of KV cache for each token, K and V at two bytes a number


class GgufHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a header says: the facts, and every value by its key, except for arrays."""

    facts: GgufFacts
    values: dict[str, Value]


def read_facts(path: Path) -> GgufFacts:
    """The facts of a file. Raises ModelError when it can't be read or isn't a whole GGUF header."""
    return read_header(path).facts


def read_header(path: Path) -> GgufHeader:
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

    def header(self) -> GgufHeader:
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
        parameters = sum(self._tensor() for _ in range(tensors))
        alignment = values.get("general.alignment") or _ALIGNMENT
        if not isinstance(alignment, int):
            raise ValueError("its alignment is no number")
        # The size of the last tensor isn't worked out, but a download that broke off rarely ends within it.
        if tensors and -(-self._at // alignment) * alignment + self._last_tensor >= len(self._data):
            raise ValueError("it ends before its last tensor")
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str):
            raise ValueError("it names no architecture")
        name, context = values.get("general.name"), values.get(f"{architecture}.context_length")
        facts = GgufFacts(
            architecture=architecture,
            name=name if isinstance(name, str) else None,
            quantisation=_quantisation(values.get("general.file_type")),
            parameters=parameters,
            context=context if isinstance(context, int) else None,
            chat_template="tokenizer.chat_template" in values,
            token_bytes=_token_bytes(values, architecture),
        )
        return GgufHeader(facts=facts, values={key: value for key, value in values.items() if value is not None})

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

    def _tensor(self) -> int:
        """The number of weights of the next tensor."""
        self._string()
        dimensions = self._take(_U32)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions")
        weights = math.prod(self._take(_U64) for _ in range(dimensions))
        self._skip(4)  # its type
        self._last_tensor = max(self._last_tensor, self._take(_U64))
        return weights


def _scalar(kind: int) -> struct.Struct:
    if kind not in _SCALARS:
        raise ValueError(f"it has a value of the unknown type {kind}")
    return _SCALARS[kind]


def _token_bytes(values: dict[str, Value], architecture: str) -> int | None:
    """None where the file doesn't give each layer the same number of heads (hybrid and recurrent models)."""

    def number(key: str) -> int | None:
        value = values.get(f"{architecture}.{key}")
        return value if isinstance(value, int) and value > 0 else None

    layers, heads, width = number("block_count"), number("attention.head_count"), number("embedding_length")
    if layers is None or heads is None or width is None:
        return None
    shared = number("attention.head_count_kv") or heads
    key = number("attention.key_length") or width // heads
    return 2 * layers * shared * (key + (number("attention.value_length") or key))


def _quantisation(file_type: Value) -> str | None:
    """The file type's usual name, such as ``Q4_K_M``; None when the file doesn't say or says what nobody knows yet."""
    if not isinstance(file_type, int):
        return None
    # Here, because importing it takes 0.14 s that a server's start can do without.
    from gguf.constants import LlamaFileType

    try:
        return str(LlamaFileType(file_type).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return None
