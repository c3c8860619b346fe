"""Keeps a reply from writing an object's key twice, which no grammar can say of objects that are open."""

from __future__ import annotations

import json
import re

import numpy as np

from tailrace.engine.structured.constraint import Mask
from tailrace.engine.structured.trigger_watcher import TokenIndex

#: Objects of a grammar that may have members which it doesn't name.
_OPEN = re.compile(r'additionalProperties\\*": *(?!false)|patternProperties')
_QUOTED = re.compile(rb'"([^"\\]+)"')


def has_open_objects(document: str) -> bool:
    """Whether objects of a compiled grammar's document may have other members than it names."""
    return _OPEN.search(document) is not None


class KeyTokens:
    """The tokens that may end a key."""

    def __init__(self, tokens: TokenIndex) -> None:
        self.tokens = tokens
        #: Tokens that may end a key behind an escape.
        self.escaping = [token for token in tokens.containing(b"\\u") if tokens.pieces[token].endswith(b'"')]
        #: Tokens that have a whole key within them, by the key.
        self.whole: dict[bytes, list[int]] = {}
        for token in tokens.containing(b'"'):
            for key in _QUOTED.findall(tokens.pieces[token]):
                self.whole.setdefault(key, []).append(token)

    def beginning(self, text: bytes) -> list[int]:
        """Tokens that begin with ``text``."""
        return [token for token in self.tokens.beginning(text) if self.tokens.pieces[token].startswith(text)]


class UniqueKeys:
    """The keys of the objects in which one reply is. What isn't within a list or an object is passed over."""

    __slots__ = ("_escaped", "_expects_key", "_in_string", "_key", "_stack", "_vocabulary", "repeated")

    def __init__(self, vocabulary: KeyTokens) -> None:
        self._vocabulary = vocabulary
        self._stack: list[set[bytes] | None] = []  #: an object's keys, None for a list
        self._in_string = False
        self._escaped = False
        self._expects_key = False
        self._key: bytearray | None = None  #: the key that is being written
        self.repeated = False  #: a key has been written twice

    def accept(self, token: int) -> None:
        """The reply goes on with ``token``."""
        self.feed(self._vocabulary.tokens.pieces[token])

    def feed(self, text: bytes) -> None:
        """The reply goes on with ``text``."""
        for byte in text:
            if self._in_string:
                self._string(byte)
            elif byte == 0x22:
                if self._stack:
                    self._in_string = True
                    self._key = bytearray() if self._expects_key else None
            elif byte == 0x7B:
                self._stack.append(set())
                self._expects_key = True
            elif byte == 0x5B:
                self._stack.append(None)
                self._expects_key = False
            elif byte in (0x7D, 0x5D) and self._stack:
                self._stack.pop()
                self._expects_key = False
            elif byte == 0x2C:
                self._expects_key = bool(self._stack) and self._stack[-1] is not None

    def narrow(self, mask: Mask) -> Mask:
        """The mask without tokens that would write a key again; as it is where nothing else is left."""
        wrong = self._wrong()
        if not wrong:
            return mask
        narrowed = mask.copy()
        for token in wrong:
            narrowed[token // 32] &= np.uint32(~(1 << token % 32) & 0xFFFFFFFF)
        return narrowed if narrowed.any() else mask

    def _string(self, byte: int) -> None:
        if byte == 0x22 and not self._escaped:
            self._in_string = False
            if self._key is not None:
                self._end_key(bytes(self._key))
            return
        if self._key is not None:
            self._key.append(byte)
        self._escaped = byte == 0x5C and not self._escaped

    def _end_key(self, key: bytes) -> None:
        keys = self._stack[-1]
        assert keys is not None
        key = _plain(key)
        self.repeated = self.repeated or key in keys
        keys.add(key)
        self._key = None
        self._expects_key = False

    def _wrong(self) -> set[int]:
        wrong: set[int] = set()
        if self._in_string and self._key is not None:
            keys, begun = self._stack[-1], _plain(bytes(self._key))
            for key in keys or ():
                if key.startswith(begun):
                    wrong.update(self._vocabulary.beginning(key[len(begun) :] + b'"'))
            if keys:
                pieces = self._vocabulary.tokens.pieces
                wrong.update(token for token in self._vocabulary.escaping if self._repeats(pieces[token]))
            return wrong
        for keys in self._stack:
            for key in keys or ():
                for token in self._vocabulary.whole.get(key, ()):
                    if self._repeats(self._vocabulary.tokens.pieces[token]):
                        wrong.add(token)
        return wrong

    def _repeats(self, text: bytes) -> bool:
        """Whether ``text`` would write a key again."""
        ahead = UniqueKeys(self._vocabulary)
        ahead._stack = [None if keys is None else set(keys) for keys in self._stack]
        ahead._in_string, ahead._escaped, ahead._expects_key = self._in_string, self._escaped, self._expects_key
        ahead._key = None if self._key is None else bytearray(self._key)
        ahead.feed(text)
        return ahead.repeated


def _plain(key: bytes) -> bytes:
    """The key without escapes, where it has any and they are whole."""
    if b"\\" not in key:
        return key
    try:
        return str(json.loads(b'"' + key + b'"')).encode("utf-8", "surrogatepass")
    except ValueError:
        return key
