"""Checkpoints of memory that can't be cut: which ones there are, which are prefixes of a prompt, and which are dropped.

A checkpoint is the recurrent part of a slot's state after some tokens. It belongs to these tokens and not to a slot:
any slot whose cells begin with them can go back to it. So swaps, new layouts and evictions leave checkpoints where they
are. This module has their accounting and holds their bytes; the executor takes them and puts them back.

Where there is no space for a new one, the checkpoint is dropped that saves the fewest tokens for its age, where age is
counted in tokens. So the checkpoints of one conversation become sparser towards its beginning, those of conversations
that rest become sparser too, and a system prompt's stays as long as new chats use it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from hashlib import blake2b

from tailrace.engine.backends.base import KVState
from tailrace.engine.kv_cache.checkpoint_positions import checkpoint_positions
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.kv_cache.state_file import Carried

#: Checkpoints, at most, however small they are: each admission of a sequence looks at all of their lengths.
_MAX_COUNT = 256
#: Tokens between checkpoints are a multiple of this, which is the size of llama.cpp's passes: they end there anyway.
_INTERVAL = 512
#: A long text's checkpoints take this part of the space.
_TEXTS = 4
#: Checkpoints that a file has, at most.
_CARRIED = 4
_TOKEN_BYTES = 4
_Key = tuple[int, bytes]  #: length, and hash of the tokens


@dataclass(slots=True, eq=False)
class Checkpoint:
    """``length``: the tokens that it stands for. ``parent``: the longest one that is a prefix of it, when it was taken.
    ``used``: the clock of the last use.
    """

    length: int
    state: KVState
    key: _Key
    parent: Checkpoint | None
    used: int

    @property
    def saved(self) -> int:
        """Tokens that would have to be computed again without it."""
        return self.length - (self.parent.length if self.parent is not None else 0)


class Checkpoints:
    """The checkpoints of one model, of at most ``max_bytes`` in all, each of about ``size`` bytes.

    ``control``: the tokens with which the model's templates mark messages.
    """

    def __init__(self, max_bytes: int, size: int, control: frozenset[int]) -> None:
        self._max_bytes = max_bytes
        self._capacity = min(_MAX_COUNT, max_bytes // size)
        self._control = control
        self._by_key: dict[_Key, Checkpoint] = {}
        self._lengths: dict[int, int] = {}  #: how many checkpoints have each length
        self._clock = 0  #: tokens that checkpoints were taken of
        self.used_bytes = 0
        self.revision = 0  #: how often checkpoints came and went
        self.at_once = 1  #: how many may be taken in a step beside replies; the executor sets it

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def free_bytes(self) -> int:
        """Bytes for which there is space without a drop."""
        return max(0, self._max_bytes - self.used_bytes)

    def positions(self, tokens: list[int], start: int) -> list[int]:
        """The lengths of ``tokens``, rising, at which checkpoints are to be taken once ``start`` tokens are there."""
        return checkpoint_positions(tokens, start, self._control, self.interval(len(tokens)))

    def interval(self, length: int) -> int:
        """Tokens between the checkpoints of a text of this length: one text takes a part of the space."""
        parts = max(1, self._capacity // _TEXTS)
        return max(1, -(-length // (parts * _INTERVAL))) * _INTERVAL

    def prefixes(self, tokens: list[int]) -> list[Checkpoint]:
        """The checkpoints whose tokens are the first of ``tokens``, the shortest first."""
        found: list[Checkpoint] = []
        if self._by_key:
            for key in _keys(tokens, sorted(length for length in self._lengths if length <= len(tokens))):
                if (checkpoint := self._by_key.get(key)) is not None:
                    found.append(checkpoint)
        return found

    def carried(self, tokens: list[int]) -> Carried:
        """Those that go with the state of ``tokens`` into a file: of a long text the first one and the last ones."""
        found = [each for each in self.prefixes(tokens) if each.length < len(tokens)]
        chosen = found if len(found) <= _CARRIED else [found[0], *found[1 - _CARRIED :]]
        return tuple((each.length, each.state) for each in chosen)

    def find(self, tokens: list[int], length: int) -> Checkpoint | None:
        """That of the first ``length`` tokens."""
        (key,) = _keys(tokens, [length])
        return self._by_key.get(key)

    def add(self, tokens: list[int], length: int, state: KVState) -> None:
        """Take in the checkpoint of the first ``length`` tokens, unless it is there or larger than the space."""
        (key,) = _keys(tokens, [length])
        if key in self._by_key or state.size > self._max_bytes:
            return
        parent = next((each for each in reversed(self.prefixes(tokens)) if each.length < length), None)
        checkpoint = Checkpoint(length, state, key, parent, 0)
        self._clock += checkpoint.saved
        checkpoint.used = self._clock
        self._by_key[key] = checkpoint
        self.revision += 1
        self._lengths[length] = self._lengths.get(length, 0) + 1
        self.used_bytes += state.size
        while self.used_bytes > self._max_bytes or len(self._by_key) > _MAX_COUNT:
            self._remove(min(self._by_key.values(), key=self._value))

    def make_space(self, size: int) -> None:
        """Drop checkpoints until ``size`` bytes are free, or none is left."""
        while self._by_key and self.free_bytes < size:
            self._remove(min(self._by_key.values(), key=self._value))

    def touch(self, checkpoint: Checkpoint) -> None:
        """A sequence starts with it."""
        checkpoint.used = self._clock

    def forget(self, tokens: list[int]) -> None:
        """Drop all that are prefixes of ``tokens``: their content may be broken."""
        for checkpoint in self.prefixes(tokens):
            self._remove(checkpoint)

    def _value(self, checkpoint: Checkpoint) -> float:
        return checkpoint.saved / (1 + self._clock - checkpoint.used)

    def _remove(self, checkpoint: Checkpoint) -> None:
        del self._by_key[checkpoint.key]
        self.revision += 1
        self._lengths[checkpoint.length] -= 1
        if not self._lengths[checkpoint.length]:
            del self._lengths[checkpoint.length]
        self.used_bytes -= checkpoint.state.size
        for other in self._by_key.values():
            if other.parent is checkpoint:
                other.parent = checkpoint.parent


def usable_prefix(
    held: list[int], tokens: list[int], longest: int, floor: int, checkpoints: list[Checkpoint]
) -> tuple[int, Checkpoint | None]:
    """How many of ``tokens``, ``longest`` at most, a sequence can start with that finds the tokens ``held``; and the
    checkpoint to which it goes back for that.

    ``floor``: the smallest length to which they can be cut. ``checkpoints``: the prefixes of ``tokens``, rising.
    """
    length = min(common_prefix(held, tokens), longest)
    if length == len(held) or length >= floor:
        return length, None
    found = next((each for each in reversed(checkpoints) if each.length <= length), None)
    return (found.length, found) if found is not None else (0, None)


def _keys(tokens: list[int], lengths: list[int]) -> list[_Key]:
    """The keys of the first tokens of these rising lengths."""
    packed = memoryview(array("i", tokens[: lengths[-1]] if lengths else ())).cast("B")
    running = blake2b(digest_size=16)
    keys: list[_Key] = []
    start = 0
    for length in lengths:
        running.update(packed[start * _TOKEN_BYTES : length * _TOKEN_BYTES])
        start = length
        keys.append((length, running.copy().digest()))
    return keys
