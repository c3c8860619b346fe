"""Keeps a reply from repeating an object's key, which no grammar can express for open objects.

An open object may have members that its schema doesn't name.
"""

from __future__ import annotations

import json
import re

import numpy as np

from tailrace.engine.structured.constraint import Mask
from tailrace.engine.structured.token_index import TokenIndex

#: Open objects in a compiled grammar's document.
_OPEN = re.compile(r'additionalProperties\\*": *(?!false)|patternProperties')
_QUOTED = re.compile(rb'"([^"\\]+)"')


def has_open_objects(document: str) -> bool:
    """Whether objects of a compiled grammar's document may have members that it doesn't name."""
    return _OPEN.search(document) is not None


class KeyTokens:
    """A vocabulary's tokens that may end a key."""

    def __init__(self, tokens: TokenIndex) -> None:
        self.tokens = tokens
        #: Tokens that may end a key with an escape in it.
        self.with_escape = [token for token in tokens.containing(b"\\u") if tokens.pieces[token].endswith(b'"')]
        #: Tokens that contain a whole key, by the key.
        self.whole: dict[bytes, list[int]] = {}
        for token in tokens.containing(b'"'):
            for key in _QUOTED.findall(tokens.pieces[token]):
                self.whole.setdefault(key, []).append(token)

    def starting_with(self, text: bytes) -> list[int]:
        """Tokens that begin with ``text``, white space included."""
        return [token for token in self.tokens.starting_with(text) if self.tokens.pieces[token].startswith(text)]


class UniqueKeys:
    """One reply's keys: those of each object that it is writing. Text outside of lists and objects is ignored."""

    __slots__ = ("_escaped", "_expects_key", "_in_string", "_key", "_key_tokens", "_stack", "repeated")

    def __init__(self, key_tokens: KeyTokens) -> None:
        self._key_tokens = key_tokens
        self._stack: list[set[bytes] | None] = []  #: an object's keys; None for a list
        self._in_string = False
        self._escaped = False
        self._expects_key = False
        self._key: bytearray | None = None  #: the key that is being written
        self.repeated = False  #: a key has been repeated

    def accept(self, token: int) -> None:
        """The reply goes on with ``token``."""
        self.feed(self._key_tokens.tokens.pieces[token])

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
        """The mask without tokens that would repeat a key; unchanged where no other token is left."""
        wrong = self._repeating_tokens()
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
        key = _unescaped(key)
        self.repeated = self.repeated or key in keys
        keys.add(key)
        self._key = None
        self._expects_key = False

    def _repeating_tokens(self) -> set[int]:
        wrong: set[int] = set()
        if self._in_string and self._key is not None:
            keys, written = self._stack[-1], _unescaped(bytes(self._key))
            for key in keys or ():
                if key.startswith(written):
                    wrong.update(self._key_tokens.starting_with(key[len(written) :] + b'"'))
            if keys:
                pieces = self._key_tokens.tokens.pieces
                wrong.update(token for token in self._key_tokens.with_escape if self._repeats(pieces[token]))
            return wrong
        for keys in self._stack:
            for key in keys or ():
                for token in self._key_tokens.whole.get(key, ()):
                    if self._repeats(self._key_tokens.tokens.pieces[token]):
                        wrong.add(token)
        return wrong

    def _repeats(self, text: bytes) -> bool:
        """Whether ``text`` would repeat a key."""
        ahead = UniqueKeys(self._key_tokens)
        ahead._stack = [None if keys is None else set(keys) for keys in self._stack]
        ahead._in_string, ahead._escaped, ahead._expects_key = self._in_string, self._escaped, self._expects_key
        ahead._key = None if self._key is None else bytearray(self._key)
        ahead.feed(text)
        return ahead.repeated


def _unescaped(key: bytes) -> bytes:
    """The key without its escapes, if it has any and they are complete."""
    if b"\\" not in key:
        return key
    try:
        return str(json.loads(b'"' + key + b'"')).encode("utf-8", "surrogatepass")
    except ValueError:
        return key
