"""Chooses a request's replica: the one with the longest prefix of the prompt in its cache, unless it has more load.

Pure policy over numbers, without sockets. Each replica has a KV cache of its own, so a conversation that moves to
another replica is computed again from its start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

#: Characters, or token ids, of one block of a prompt.
_TEXT_BLOCK = 128
_TOKEN_BLOCK = 32
#: One request more on a replica costs as much as computing this number of blocks (256 tokens).
_REQUEST_BLOCKS = 8
#: Max blocks in the record; the least recently used ones go first. 8 million characters take about 10 MB.
_MAX_BLOCKS = 65_536


class ReplicaRouter:
    """Records which replicas have computed which prefixes."""

    def __init__(self) -> None:
        #: Chained hashes of prefixes → the replicas that have computed them, as bits.
        self._replicas: OrderedDict[int, int] = OrderedDict()

    def choose(self, prompt: str | list[int], loads: Mapping[int, int]) -> int:
        """The replica for ``prompt``. From now on the record counts the prompt as computed there.

        ``loads`` has the load of every replica that may be chosen: its unfinished requests. The cost of a replica is
        the part of the prompt that it has to compute, plus its load. So a long conversation stays where it is, and a
        short prefix of many requests is soon in the caches of all replicas.
        """
        return next(iter(self.spread(prompt, 1, {replica: [load] for replica, load in loads.items()})))

    def spread(self, prompt: str | list[int], count: int, loads: Mapping[int, Sequence[int]]) -> dict[int, int]:
        """How many of ``count`` replies to ``prompt`` each replica gets; those that get none are left out.

        ``loads[replica][n]`` is the replica's load when it has n of the replies, for each n less than ``count``. The
        prompt is hashed once.
        """
        chain = _chain(prompt)
        known = self._known(chain, loads)
        given = dict.fromkeys(loads, 0)

        def cost(replica: int) -> tuple[int, int]:
            return _REQUEST_BLOCKS * loads[replica][given[replica]] - known[replica], replica

        for _ in range(count):
            chosen = min(loads, key=cost)
            given[chosen] += 1
            known[chosen] = len(chain)
        chosen_replicas = {replica: number for replica, number in given.items() if number}
        for replica in chosen_replicas:
            self._remember(chain, replica)
        return chosen_replicas

    def forget(self, replica: int) -> None:
        """The replica has died, and its cache with it."""
        others = ~(1 << replica)
        for block in self._replicas:
            self._replicas[block] &= others

    def _known(self, chain: list[int], replicas: Iterable[int]) -> dict[int, int]:
        """How many of the blocks, from the first on, each replica has computed."""
        known = dict.fromkeys(replicas, 0)
        matching = set(known)
        for number, block in enumerate(chain, 1):
            holders = self._replicas.get(block, 0)
            matching = {replica for replica in matching if holders >> replica & 1}
            if not matching:
                break
            for replica in matching:
                known[replica] = number
        return known

    def _remember(self, chain: list[int], replica: int) -> None:
        record = self._replicas
        # Backwards, so that a long prompt's end is dropped before the prefix that it depends on.
        for block in reversed(chain):
            record[block] = record.pop(block, 0) | 1 << replica
        while len(record) > _MAX_BLOCKS:
            record.popitem(last=False)


def _chain(prompt: str | list[int]) -> list[int]:
    """A hash of each prefix of ``prompt`` that is a whole number of blocks."""
    size = _TEXT_BLOCK if isinstance(prompt, str) else _TOKEN_BLOCK
    chain: list[int] = []
    last = 0
    # More blocks than the record holds would push each other out.
    for start in range(0, min(len(prompt), size * _MAX_BLOCKS) - size + 1, size):
        block = prompt[start : start + size]
        last = hash((last, block if isinstance(block, str) else tuple(block)))
        chain.append(last)
    return chain
