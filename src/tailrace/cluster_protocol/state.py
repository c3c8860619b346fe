"""The messages between a replica's HTTP process and the cluster's ingress, and nothing else.

``GET /cluster/state`` is answered with lines of JSON: one ``ReplicaState``, then a ``StateChange`` at most every
``CHANGE_SECONDS`` when something has changed, and a ``StateHeartbeat`` where nothing was sent for
``HEARTBEAT_SECONDS``. ``POST /cluster/prompt?path=...`` is answered with a ``PromptChains``.

Texts of prompts are in none of them: prefixes are named by hashes (``prefix_chain``).
"""

from __future__ import annotations

from typing import Literal

import msgspec

#: The header with the setting ``cluster_secret``, in lower case.
SECRET_HEADER = "x-tailrace-cluster-secret"
#: Raised when a message changes its meaning.
STATE_VERSION = 1
#: Seconds between two changes of one state, at least.
CHANGE_SECONDS = 0.1
#: Seconds between two messages, at most.
HEARTBEAT_SECONDS = 0.5
#: Seconds of silence after which a replica counts as gone.
SILENCE_SECONDS = 1.5
#: Prefix blocks that a replica publishes, at most: the most recently used ones.
MAX_HELD_BLOCKS = 65_536

#: ``draining``: what runs is finished, and nothing new is taken.
ReplicaPhase = Literal["starting", "ready", "draining"]
#: Where a prefix is held: in the model's cache, in host memory, or in a file that has to be read first.
Tier = Literal["cells", "host", "disk"]
#: The tiers, fastest first.
TIERS: tuple[Tier, ...] = ("cells", "host", "disk")


class ModelLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One served model's work now, all of its engines in this server together. Speeds are 0 until they are measured."""

    name: str
    keys: tuple[str, ...] = ()  #: what its names have in common with other spellings (``models.reference.name_keys``)
    aliases: tuple[str, ...] = ()  #: further names; ``*`` stands for any characters
    running: int = 0  #: sequences in slots
    waiting: int = 0  #: sequences that wait for a slot, or whose text is being tokenised
    waiting_prompt_tokens: int = 0  #: prompt tokens that are to be computed, of waiting and running sequences
    slots: int = 0  #: sequences that can run at the same time; 0: no engine is ready
    engines: int = 0  #: engines that are ready
    free_tokens: int | None = None  #: tokens that it can hold without dropping a prefix; None: not known
    prefill_speed: float = 0.0  #: prompt tokens a second, of one engine
    reply_tokens: float = 0.0  #: of a reply, as a mean of those that have ended; 0: none has
    decode_speed: float = 0.0  #: reply tokens a second, of all running sequences together
    disk_speed: float = 0.0  #: tokens of a prefix that are read from the disk tier in a second


class HeldBlocks(msgspec.Struct, frozen=True):
    """Prefix blocks of one tier: ``hashes`` as ``prefix_chain.pack_hashes`` makes them (base64 in JSON)."""

    tier: Tier
    hashes: bytes


class ReplicaState(msgspec.Struct, tag="state", frozen=True, kw_only=True, omit_defaults=True):
    """Everything, at the start of a stream."""

    version: int
    phase: ReplicaPhase
    models: list[ModelLoad] = []
    held: list[HeldBlocks] = []


class StateChange(msgspec.Struct, tag="change", frozen=True, kw_only=True, omit_defaults=True):
    """What has changed since the last message: None and empty stand for nothing.

    A block that is ``held`` already has moved to another tier. ``removed`` blocks are packed as in ``HeldBlocks``.
    """

    phase: ReplicaPhase | None = None
    models: list[ModelLoad] | None = None  #: all models
    held: list[HeldBlocks] = []
    removed: bytes = b""


class StateHeartbeat(msgspec.Struct, tag="heartbeat", frozen=True):
    """Nothing has changed."""


#: A line of the stream.
StateMessage = ReplicaState | StateChange | StateHeartbeat


class PromptChain(msgspec.Struct, frozen=True):
    """One prompt: its tokens, and the hashes of its whole blocks, packed as in ``HeldBlocks``."""

    tokens: int
    hashes: bytes


class PromptChains(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The prompts that a request's body would have the engine read. ``choices``: replies to each of them."""

    model: str
    prompts: list[PromptChain]
    choices: int = 1
