"""The names of a prompt's prefixes: a chain of hashes, one for each whole block of tokens.

All replicas of a model name a prefix alike, in every process and on every machine. So a replica can publish which
prefixes it holds, and a router can look up how much of a prompt each replica holds. A hash covers all tokens before
it: a replica that holds block n of a chain holds the n blocks before it, too. Tokens can't be read from hashes without
guessing the whole prefix, and the chain's ``identity`` keeps different models apart.

It owns hashing alone. Which prefixes are held is ``engine.kv_cache``'s, and what follows from it is the router's.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

#: Tokens of a block. On average half a block of a match isn't seen: 32 tokens, less than a step's work. Smaller blocks
#: would make the published state larger: 65,536 hashes of 8 bytes name 4 million tokens.
BLOCK_TOKENS = 64
#: Bytes of a token in the form of ``extend_packed``.
_TOKEN_BYTES = 4
#: Bytes of a hash: 65,536 blocks of 100 replicas collide with a probability of 1 in a million.
_HASH_BYTES = 8


class PrefixChain:
    """The chain of a text that grows at its end."""

    __slots__ = ("_last", "hashes")

    def __init__(self, identity: str) -> None:
        """``identity``: of the model and of everything else on which its states depend."""
        self.hashes: list[int] = []  #: of the whole blocks so far
        self._last = blake2b(identity.encode(), digest_size=_HASH_BYTES).digest()

    def extend(self, tokens: list[int]) -> list[int]:
        """Add the blocks of ``tokens`` (the text from its start) that aren't in the chain yet; returns their hashes."""
        start, end = len(self.hashes), len(tokens) // BLOCK_TOKENS
        if end <= start:
            return []
        return self._add(memoryview(array("i", tokens[start * BLOCK_TOKENS : end * BLOCK_TOKENS])).cast("B"))

    def extend_packed(self, tokens: bytes) -> list[int]:
        """The same for tokens as ``array("i")`` has them."""
        size = BLOCK_TOKENS * _TOKEN_BYTES
        return self._add(memoryview(tokens)[len(self.hashes) * size : len(tokens) // size * size])

    def _add(self, blocks: memoryview) -> list[int]:
        start, size = len(self.hashes), BLOCK_TOKENS * _TOKEN_BYTES
        last = self._last
        for place in range(0, len(blocks), size):
            last = blake2b(blocks[place : place + size], digest_size=_HASH_BYTES, key=last).digest()
            self.hashes.append(int.from_bytes(last, "little"))
        self._last = last
        return self.hashes[start:]


def chain_of(identity: str, tokens: list[int]) -> list[int]:
    """The hashes of all whole blocks of ``tokens``, the shortest prefix first."""
    return PrefixChain(identity).extend(tokens)


def pack_hashes(hashes: list[int]) -> bytes:
    """The hashes as they are sent: 8 bytes each, little-endian."""
    return b"".join(number.to_bytes(_HASH_BYTES, "little") for number in hashes)


def unpack_hashes(packed: bytes) -> list[int]:
    """The opposite of ``pack_hashes``. Raises ValueError where the length is no multiple of 8."""
    if len(packed) % _HASH_BYTES:
        raise ValueError(f"{len(packed)} bytes are no whole number of hashes")
    return [
        int.from_bytes(packed[start : start + _HASH_BYTES], "little") for start in range(0, len(packed), _HASH_BYTES)
    ]
