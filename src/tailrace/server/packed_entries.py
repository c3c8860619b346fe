"""Many small structs in one block of memory.

Thousands of small objects that live long would leave holes behind in memory, which can't be returned to the system.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import msgspec

Entry = TypeVar("Entry")

_encoder = msgspec.msgpack.Encoder()


class PackedEntries(Generic[Entry]):
    """A sequence that grows at its end. It stores each entry as MessagePack, and decodes it each time it is read."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Entry]) -> None:
        """``decoder`` reads what msgspec writes for an entry."""
        self._decoder = decoder
        self._block = bytearray()
        self._ends = array("Q")

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add entries."""
        for entry in entries:
            _encoder.encode_into(entry, self._block, -1)
            self._ends.append(len(self._block))

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return len(self._block)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Entry]:
        start = 0
        for end in self._ends:
            yield self._decoder.decode(self._block[start:end])
            start = end
