"""Ways to choose a replica for a request: ours, and those that load balancers have."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from zlib import crc32

from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster.routing.choose import choose
from tailrace.cluster.routing.sent_requests import Prompt, SentRequests

#: The conversation, its prompt, the model, the replicas and what was sent to them → the number of a replica.
Policy = Callable[[int, Prompt, str, Sequence[ReplicaView], SentRequests], int]


def longest_prefix() -> Policy:
    """Ours: the fewest seconds of work (``tailrace.cluster.routing.choose``)."""

    def pick(conversation: int, prompt: Prompt, model: str, replicas: Sequence[ReplicaView], sent: SentRequests) -> int:
        choice = choose(model, [prompt], replicas, sent)
        assert choice is not None, "no replica takes requests"
        return replicas.index(choice.replica)

    return pick


def round_robin() -> Policy:
    """Each replica in turn."""
    numbers = count()
    return lambda conversation, prompt, model, replicas, sent: next(numbers) % len(replicas)


def power_of_two(seed: int = 0) -> Policy:
    """Of two replicas by chance the one with fewer open requests."""
    source = random.Random(seed)

    def pick(conversation: int, prompt: Prompt, model: str, replicas: Sequence[ReplicaView], sent: SentRequests) -> int:
        two = source.sample(range(len(replicas)), min(2, len(replicas)))
        return min(two, key=lambda number: sent.of(replicas[number].id, model).sequences)

    return pick


def by_conversation() -> Policy:
    """The replica that a hash of the conversation names: what a session cookie does."""
    return lambda conversation, prompt, model, replicas, sent: crc32(b"%d" % conversation) % len(replicas)


def by_chance(seed: int = 0) -> Policy:
    """Any replica."""
    source = random.Random(seed)
    return lambda conversation, prompt, model, replicas, sent: source.randrange(len(replicas))


#: Those that are compared, by name.
POLICIES: Mapping[str, Callable[[], Policy]] = {
    "longest prefix": longest_prefix,
    "round robin": round_robin,
    "power of two": power_of_two,
    "conversation's hash": by_conversation,
}
