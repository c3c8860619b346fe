"""Which replica gets a request: the one where it costs the fewest seconds of work. A pure function.

The cost of a replica is the sum of

- the prompt tokens that it doesn't hold, at its prefill speed; a prefix in a file takes the time to read it;
- the prompt tokens that wait there, at the same speed;
- the wait for a slot, where all are taken;
- what the sequences that run there lose and take by one sequence more;
- the part of the prompt for which it has to drop other prefixes, which may have to be computed again.

So a long conversation stays where its prefix is. A short prefix of many requests is soon held by several replicas,
because the waiting work of the first one outweighs it. Ties go to the replica with the fewest running sequences, then
to the one that holds the fewest prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster.routing.sent_requests import Prompt, SentRequests, SentWork
from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS
from tailrace.cluster_protocol.state import ModelLoad

#: Measurements that differ from the mean by less than this factor count as equal.
_SAME = 2.0


@dataclass(frozen=True)
class Weights:
    """The rates of exchange. Speeds and lengths apply until any replica of the model has measured its own."""

    prefill_speed: float = 500.0  #: prompt tokens a second
    decode_speed: float = 50.0  #: reply tokens a second, of all sequences together
    disk_factor: float = 16.0  #: tokens that are read from a file while one is computed
    reply_tokens: float = 200.0  #: tokens of a reply: slots become free at ``decode_speed`` ÷ this
    sequence_part: float = 0.005  #: the part of a reply's time that one more sequence beside it costs
    dropped_part: float = 0.5  #: the part of dropped prefixes that is computed again


@dataclass(frozen=True)
class Choice:
    """The replica for a request, and what it has to compute there."""

    replica: ReplicaView
    new_tokens: int  #: prompt tokens that it doesn't hold
    seconds: float  #: the cost


def choose(
    model: str,
    prompts: Sequence[Prompt],
    replicas: Iterable[ReplicaView],
    sent: SentRequests,
    weights: Weights = Weights(),
    *,
    sequences: int = 1,
) -> Choice | None:
    """The replica with the lowest cost; None where no replica of the model takes requests.

    ``sent``: what this ingress has sent; the caller records the choice there. ``sequences``: replies of the request.
    """
    best: tuple[tuple[float, int, int, str], Choice] | None = None
    able = [
        (replica, load)
        for replica in replicas
        if replica.takes_requests and (load := replica.load_of(model)) is not None and load.slots
    ]
    weights = _measured([load for _, load in able], weights)
    for replica, load in able:
        work = sent.of(replica.id, load.name)
        choice = _cost(prompts, replica, load, work, weights, sequences)
        rank = (choice.seconds, max(load.running, work.sequences), len(replica.held) + len(work.blocks), replica.id)
        if best is None or rank < best[0]:
            best = (rank, choice)
    return None if best is None else best[1]


def _measured(loads: Sequence[ModelLoad], weights: Weights) -> Weights:
    """The weights with the means of what replicas have measured. A new replica is expected to be as fast as the others:
    one that counted as slower would get no request, and would never measure its speed.
    """

    def mean(measured: Iterable[float], default: float) -> float:
        known = [value for value in measured if value]
        return sum(known) / len(known) if known else default

    return replace(
        weights,
        prefill_speed=mean((load.prefill_speed for load in loads), weights.prefill_speed),
        decode_speed=mean((load.decode_speed for load in loads), weights.decode_speed),
        reply_tokens=mean((load.reply_tokens for load in loads), weights.reply_tokens),
    )


def _cost(
    prompts: Sequence[Prompt], replica: ReplicaView, load: ModelLoad, work: SentWork, weights: Weights, sequences: int
) -> Choice:
    speed = _expected(load.prefill_speed, weights.prefill_speed)
    disk_speed = load.disk_speed or speed * weights.disk_factor
    seconds, new_tokens = 0.0, 0
    for prompt in prompts:
        in_memory, held = _held_tokens(prompt, replica, work)
        computed, read = (prompt.tokens - in_memory) / speed, (prompt.tokens - held) / speed + held / disk_speed
        seconds += min(computed, read)
        new_tokens += prompt.tokens - (in_memory if computed <= read else held)
    # Both count the same requests: the state those of all ingresses, the record those that were just sent.
    waiting_tokens = max(load.waiting_prompt_tokens, work.unbegun_tokens)
    busy = max(load.running + load.waiting, work.sequences, load.running + work.unbegun)
    over = max(0, busy + sequences - load.slots)
    dropped = max(0, new_tokens - load.free_tokens) if load.free_tokens is not None else 0
    decode_speed = _expected(load.decode_speed, weights.decode_speed)
    slot_seconds = _expected(load.reply_tokens, weights.reply_tokens) / decode_speed
    reply_seconds = slot_seconds * load.slots  # Where all slots are taken, one becomes free each ``slot_seconds``.
    seconds += waiting_tokens / (speed * max(1, load.engines)) + over * slot_seconds
    seconds += busy * weights.sequence_part * reply_seconds + dropped * weights.dropped_part / speed
    return Choice(replica, new_tokens, seconds)


def _expected(measured: float, typical: float) -> float:
    """What to expect of a replica that has measured this, where its like has ``typical``: short prompts and replies
    give measurements that vary, and a chance difference would send everything to one replica.
    """
    return measured if measured and not typical / _SAME <= measured <= typical * _SAME else typical


def _held_tokens(prompt: Prompt, replica: ReplicaView, work: SentWork) -> tuple[int, int]:
    """How many of the prompt's tokens the replica holds in memory, and how many together with its files.

    The last token is always computed: its logits are wanted.
    """
    in_memory = held = 0
    chain = prompt.chain
    for count in range(len(chain), 0, -1):
        tier = "cells" if chain[count - 1] in work.blocks else replica.held.get(chain[count - 1])
        if tier is not None and not held:
            held = count
        if tier is not None and tier != "disk":
            in_memory = count
            break
    longest = max(0, prompt.tokens - 1)
    return min(in_memory * BLOCK_TOKENS, longest), min(held * BLOCK_TOKENS, longest)
