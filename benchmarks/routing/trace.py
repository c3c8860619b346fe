"""Traces of conversations: which prompts came when, without their texts. A file has a line of JSON for each turn.

``benchmarks.cluster_trace`` records one from real servers; ``generated`` makes one from random numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS, pack_hashes, unpack_hashes


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One request. ``pause``: seconds after the conversation's last reply, or after the trace's start."""

    conversation: int
    pause: float
    tokens: int  #: of the prompt
    hashes: bytes  #: of the prompt's whole blocks, packed (``prefix_chain``)
    reply_tokens: int

    @property
    def chain(self) -> list[int]:
        """The prompt's blocks."""
        return unpack_hashes(self.hashes)


def save(file: Path, turns: Iterable[Turn]) -> None:
    """Write a trace: a conversation's turns in their order."""
    file.write_bytes(b"".join(msgspec.json.encode(turn) + b"\n" for turn in turns))


def load(file: Path) -> list[Turn]:
    """Read a trace. Raises OSError and msgspec.DecodeError."""
    return [msgspec.json.decode(line, type=Turn) for line in file.read_bytes().splitlines() if line]


def generated(
    seed: int,
    *,
    conversations: int = 30,
    turns: int = 5,
    systems: int = 3,
    system_tokens: int = 500,
    turn_tokens: int = 300,
    reply_tokens: int = 150,
    pause: float = 8.0,
) -> list[Turn]:
    """Conversations that share a few system prompts. Tokens and pauses are means of what they vary around."""
    source = random.Random(seed)
    prefixes = [_blocks(source, source.randint(system_tokens // 2, system_tokens * 3 // 2)) for _ in range(systems)]
    found: list[Turn] = []
    for number in range(conversations):
        chain = [*source.choice(prefixes)]
        for turn in range(turns):
            chain += _blocks(source, source.randint(turn_tokens // 2, turn_tokens * 3 // 2))
            reply = source.randint(reply_tokens // 2, reply_tokens * 3 // 2)
            found.append(
                Turn(
                    conversation=number,
                    pause=source.uniform(0, 2 * pause) if turn else source.uniform(0, pause),
                    tokens=len(chain) * BLOCK_TOKENS + source.randrange(BLOCK_TOKENS),
                    hashes=pack_hashes(chain),
                    reply_tokens=reply,
                )
            )
            chain = chain + _blocks(source, reply)
    return found


def _blocks(source: random.Random, tokens: int) -> list[int]:
    return [source.getrandbits(64) for _ in range(max(1, tokens // BLOCK_TOKENS))]
