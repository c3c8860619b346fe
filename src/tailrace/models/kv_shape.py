"""The size of a model's KV cache: the numbers of a token's keys and values, and each type's bytes. It reads no file."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tailrace.errors import ConfigurationError
from tailrace.settings import CacheType

#: Numbers of a block of the quantised types.
_BLOCK = 32
#: Bytes of so many numbers. A block of q8_0 and q4_0 has a 16-bit scale, as in GGUF files.
_BLOCK_BYTES: dict[CacheType, int] = {"f16": 64, "bf16": 64, "q8_0": 34, "q4_0": 18}


class CacheTypes(NamedTuple):
    """The types of keys and of values."""

    k: CacheType = "f16"
    v: CacheType = "f16"


F16_CACHE = CacheTypes()


class KVShape(msgspec.Struct, frozen=True):
    """Keys and values of one token. All layers and heads have the same sizes."""

    layers: int
    heads: int  #: of keys and values, in a layer
    key_length: int  #: numbers of a key in a head
    value_length: int  #: numbers of a value in a head

    def token_bytes(self, types: CacheTypes) -> int:
        """Bytes of a token in the KV cache."""
        key, value = vector_bytes(self.key_length, types.k), vector_bytes(self.value_length, types.v)
        return self.layers * self.heads * (key + value)

    def check(self, types: CacheTypes) -> None:
        """Raise ConfigurationError where heads can't be cut into blocks: llama.cpp makes no such cache."""
        for name, length, kind in (("k", self.key_length, types.k), ("v", self.value_length, types.v)):
            if is_quantised(kind) and length % _BLOCK:
                raise ConfigurationError(
                    f"cache_type_{name} can't be {kind} with this model: its heads have {length} numbers, and {kind} "
                    f"needs a multiple of {_BLOCK}. Set --cache-type-{name} to f16 or bf16"
                )


def vector_bytes(numbers: int, kind: CacheType) -> int:
    """Bytes of a vector of so many numbers in a KV cache."""
    return -(-numbers * _BLOCK_BYTES[kind] // _BLOCK)


def is_quantised(kind: CacheType) -> bool:
    """Whether numbers are stored in blocks with a scale."""
    return kind in ("q8_0", "q4_0")
