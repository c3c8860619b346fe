"""Tokens of texts that were tokenised a moment ago: a cluster's ingress asks for a prompt's tokens before it sends the
request, and the prompt isn't tokenised twice. Bounded in bytes, least recently used out first.

A text is found by a cryptographic hash, so that no request gets another one's tokens.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from hashlib import blake2b

import msgspec

from tailrace.prompt_text import PromptText
from tailrace.protocol import Submit, Tokenize

#: Memory for the tokens of one model: 8 million.
_MAX_BYTES = 32_000_000
#: What an entry takes beside its tokens.
_ENTRY_BYTES = 200


class KnownPrompts:
    """See the module. Those of one model."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tokens: OrderedDict[bytes, array[int]] = OrderedDict()

    def tokens_of(self, query: Tokenize) -> list[int] | None:
        """The answer to the query, where it is known."""
        return self._find(_key(query.text, query.parse_special, query.add_special))

    def add(self, query: Tokenize, tokens: list[int]) -> None:
        """The query has been answered."""
        key = _key(query.text, query.parse_special, query.add_special)
        packed = array("i", tokens)
        if key in self._tokens or _size(packed) > self._max_bytes:
            return
        self._tokens[key] = packed
        self._bytes += _size(packed)
        while self._bytes > self._max_bytes:
            _, oldest = self._tokens.popitem(last=False)
            self._bytes -= _size(oldest)

    def fill(self, submit: Submit) -> Submit:
        """The submit, with tokens instead of a text that is known."""
        if not isinstance(submit.prompt, PromptText) or submit.params.suffix is not None:
            return submit
        tokens = self._find(_key(submit.prompt, True, None))
        return submit if tokens is None else msgspec.structs.replace(submit, prompt=tokens)

    def clear(self) -> None:
        """Another engine has connected: its vocabulary may be another one."""
        self._tokens.clear()
        self._bytes = 0

    def _find(self, key: bytes) -> list[int] | None:
        found = self._tokens.get(key)
        if found is None:
            return None
        self._tokens.move_to_end(key)
        return found.tolist()


def _size(tokens: array[int]) -> int:
    return len(tokens) * tokens.itemsize + _ENTRY_BYTES


def _key(text: PromptText, parse_special: bool, add_special: bool | None) -> bytes:
    return blake2b(msgspec.msgpack.encode((text, parse_special, add_special)), digest_size=32).digest()
