"""A replica as the ingress sees it: its address, its load and the prefixes that it holds.

It follows the messages of the replica's state channel. It opens no connection and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tailrace.cluster_protocol.prefix_chain import unpack_hashes
from tailrace.cluster_protocol.state import ModelLoad, ReplicaPhase, ReplicaState, StateChange, StateMessage, Tier
from tailrace.models.reference import name_key


@dataclass(eq=False)
class ReplicaView:
    """One replica. Until its first message its phase is ``starting``."""

    id: str  #: unique in the cluster
    host: str
    port: int
    phase: ReplicaPhase = "starting"
    gone: bool = False  #: its channel has broken or is silent; it stays gone until a new state comes
    behind: bool = False  #: its next message is overdue: nothing new is sent to it until one comes
    models: dict[str, ModelLoad] = field(default_factory=dict)  #: by name
    held: dict[int, Tier] = field(default_factory=dict)  #: prefix blocks, by hash

    @property
    def takes_requests(self) -> bool:
        """Whether a new request may be sent to it."""
        return self.phase == "ready" and not (self.gone or self.behind)

    def load_of(self, model: str) -> ModelLoad | None:
        """The load of the model that a client calls ``model``; None where the replica doesn't serve it.

        As in the server's own directory: the name itself, then its other spellings, then aliases.
        """
        if (found := self.models.get(model)) is not None:
            return found
        key = name_key(model)
        for load in self.models.values():
            if key in load.keys:
                return load
        for load in self.models.values():
            if any(fnmatchcase(key, alias.casefold().removesuffix(":latest")) for alias in load.aliases):
                return load
        return None

    def apply(self, message: StateMessage) -> None:
        """Take in a message of its channel. Raises ValueError on hashes that are none."""
        self.behind = False
        if isinstance(message, ReplicaState):
            self.phase, self.gone = message.phase, False
            self.models = {load.name: load for load in message.models}
            self.held = {number: blocks.tier for blocks in message.held for number in unpack_hashes(blocks.hashes)}
        elif isinstance(message, StateChange):
            if message.phase is not None:
                self.phase = message.phase
            if message.models is not None:
                self.models = {load.name: load for load in message.models}
            for number in unpack_hashes(message.removed):
                self.held.pop(number, None)
            for blocks in message.held:
                self.held.update(dict.fromkeys(unpack_hashes(blocks.hashes), blocks.tier))

    def mark_gone(self) -> None:
        """Its channel has broken or is silent: what it held isn't known any more."""
        self.gone = True
        self.held = {}
