"""The index of the disk tier's files: found by their tokens, least recently used first. Pure accounting.

Tokens are packed (int32 each): a folder may hold a million of them, and lists of ints take nine times the memory.
"""

from __future__ import annotations

import hashlib

import numpy as np

from tailrace.engine.kv_cache.eviction import LruIndex
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.kv_cache.rollback import ANY_LENGTH, Rollback

#: Shorter common prefixes aren't looked for: computing them is as fast as reading a file.
MIN_PREFIX = 16
#: Tokens of a state that are read in the time in which one token is computed, at least.
_READ_PER_COMPUTED = 16
#: Bytes of a packed token.
_TOKEN = 4


def pack(tokens: list[int]) -> bytes:
    """The tokens as the index has them."""
    return np.array(tokens, np.int32).tobytes()


def unpack(packed: bytes) -> list[int]:
    """The opposite of ``pack``."""
    tokens: list[int] = np.frombuffer(packed, np.int32).tolist()
    return tokens


def name_of(packed: bytes) -> str:
    """The file name of the state of these tokens, without its suffix."""
    return hashlib.sha256(packed).hexdigest()[:32]


class StateIndex:
    """File names with the tokens and bytes of each."""

    def __init__(self, rollback: Rollback = ANY_LENGTH) -> None:
        """``rollback``: how a state's end can be removed, so that a part of its tokens is of use."""
        self._rollback = rollback
        self.revision = 0  #: how often files were added and removed
        self._tokens: dict[str, bytes] = {}
        self._checkpoints: dict[str, tuple[int, ...]] = {}  #: lengths of those that a file carries, rising
        self._lru: LruIndex[str] = LruIndex()
        self._by_start: dict[bytes, set[str]] = {}  #: the first MIN_PREFIX tokens → file names

    def __contains__(self, name: object) -> bool:
        return name in self._tokens

    @property
    def used_bytes(self) -> int:
        """Bytes that the files take."""
        return self._lru.total

    @property
    def names(self) -> list[str]:
        """All files, least recently used first."""
        return list(self._lru)

    def checkpoints(self, name: str) -> tuple[int, ...]:
        """The lengths of the checkpoints that the file carries, rising. Raises KeyError."""
        return self._checkpoints[name]

    def tokens(self, name: str) -> bytes:
        """The file's tokens. Raises KeyError."""
        return self._tokens[name]

    def add(self, name: str, packed: bytes, size: int, checkpoints: tuple[int, ...] = ()) -> None:
        """Add a new file as the most recently used one. ``checkpoints``: lengths of those that it carries, rising."""
        self._tokens[name] = packed
        self._checkpoints[name] = checkpoints
        self.revision += 1
        self._lru.add(name, size)
        self._by_start.setdefault(_start(packed), set()).add(name)

    def touch(self, name: str) -> None:
        """The file was used."""
        self._lru.touch(name)

    def remove(self, name: str) -> None:
        """Forget the file, if it is there."""
        packed = self._tokens.pop(name, None)
        if packed is None:
            return
        self.revision += 1
        del self._checkpoints[name]
        self._lru.remove(name)
        names = self._by_start[_start(packed)]
        names.discard(name)
        if not names:
            del self._by_start[_start(packed)]

    def victims(self, limit: int) -> list[str]:
        """The files to delete, least recently used first, so that the others take at most ``limit`` bytes."""
        return self._lru.victims(limit)

    def find(self, tokens: list[int], known: int) -> str | None:
        """The file to read for a sequence of which ``known`` tokens needn't be computed; None where none is worth it.

        It is the one with the longest common prefix, and of several the shortest.
        """
        packed = pack(tokens)
        best, best_length, best_size = None, known + MIN_PREFIX - 1, 0
        for name in self._by_start.get(_start(packed), ()):
            stored = self._tokens[name]
            size = len(stored) // _TOKEN
            length = self._usable(name, common_prefix(stored, packed) // _TOKEN, size)
            if (length - known) * _READ_PER_COMPUTED < size:
                continue
            if length > best_length or (best is not None and length == best_length and size < best_size):
                best, best_length, best_size = name, length, size
        return best

    def covers(self, packed: bytes) -> str | None:
        """A file that makes a state of these tokens needless: the same, or a longer one that can be cut."""
        for name in self._by_start.get(_start(packed), ()):
            stored = self._tokens[name]
            if stored == packed or (stored.startswith(packed) and self._covers(name, packed)):
                return name
        return None

    def _covers(self, name: str, packed: bytes) -> bool:
        """Whether the file's longer state serves a sequence that goes on after these tokens."""
        length = len(packed) // _TOKEN
        return self._usable(name, length, len(self._tokens[name]) // _TOKEN) == length

    def _usable(self, name: str, common: int, size: int) -> int:
        """How many of the ``common`` tokens of a prompt and the file's ``size`` a sequence can start with."""
        if common >= self._rollback.state_floor(size):
            return common
        return max((length for length in self._checkpoints[name] if length <= common), default=0)

    def superseded(self, packed: bytes) -> list[str]:
        """Files whose tokens are the beginning of these: the earlier turns of a conversation."""
        names = self._by_start.get(_start(packed), ())
        return [
            name for name in names if len(self._tokens[name]) < len(packed) and packed.startswith(self._tokens[name])
        ]


def _start(packed: bytes) -> bytes:
    return packed[: MIN_PREFIX * _TOKEN]
