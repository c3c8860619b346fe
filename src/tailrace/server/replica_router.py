"""Which replica a request goes to: the one that has read the beginning of its prompt, unless that one is busier.

Pure policy over numbers: it knows no sockets. Each replica has a KV cache of its own, so a conversation that moves to
another one is read again from its start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

#: Characters, or token ids, that are remembered as one.
_TEXT_BLOCK = 128
_TOKEN_BLOCK = 32
#: Blocks that a replica would rather read than have one more request to share its steps with: some 256 tokens.
_REQUEST_BLOCKS = 8
#: Blocks that are remembered, the longest unused forgotten first: 8 million characters in about 10 MB.
_MAX_BLOCKS = 65_536


class ReplicaRouter:
    """Remembers which replicas have read which beginnings."""

    def __init__(self) -> None:
        #: Chained hashes of beginnings → the replicas that have read them, as bits.
        self._readers: OrderedDict[int, int] = OrderedDict()

    def choose(self, prompt: str | list[int], loads: Mapping[int, int]) -> int:
        """The replica for ``prompt``; it is taken to have read it from now on.

        ``loads`` has the unfinished requests of every replica that may be chosen. A replica costs what it would have
        to read of the prompt, and its load: of two that have read alike the less busy one is chosen, a long
        conversation stays where it is, and a short beginning that many share is soon read by all.
        """
        chain = _chain(prompt)
        known = self._known(chain, loads)
        chosen = min(loads, key=lambda replica: (_REQUEST_BLOCKS * loads[replica] - known[replica], replica))
        self._remember(chain, chosen)
        return chosen

    def forget(self, replica: int) -> None:
        """The replica has died, and its cache with it."""
        kept = ~(1 << replica)
        for block in self._readers:
            self._readers[block] &= kept

    def _known(self, chain: list[int], loads: Mapping[int, int]) -> dict[int, int]:
        """How many of the blocks, from the first on, each replica has read."""
        known = dict.fromkeys(loads, 0)
        reading = set(loads)
        for number, block in enumerate(chain, 1):
            readers = self._readers.get(block, 0)
            reading = {replica for replica in reading if readers >> replica & 1}
            if not reading:
                break
            for replica in reading:
                known[replica] = number
        return known

    def _remember(self, chain: list[int], replica: int) -> None:
        readers = self._readers
        # Backwards, so that of a long prompt the end is forgotten before the beginning that it depends on.
        for block in reversed(chain):
            readers[block] = readers.pop(block, 0) | 1 << replica
        while len(readers) > _MAX_BLOCKS:
            readers.popitem(last=False)


def _chain(prompt: str | list[int]) -> list[int]:
    """A hash of each beginning of ``prompt`` that is a whole number of blocks."""
    size = _TEXT_BLOCK if isinstance(prompt, str) else _TOKEN_BLOCK
    chain: list[int] = []
    last = 0
    # More blocks than are remembered would push each other out.
    for start in range(0, min(len(prompt), size * _MAX_BLOCKS) - size + 1, size):
        block = prompt[start : start + size]
        last = hash((last, block if isinstance(block, str) else tuple(block)))
        chain.append(last)
    return chain
