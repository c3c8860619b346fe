"""All replicas: which of them may get a request, and which one gets it.

It follows the parent's orders and each replica's state channel. It forwards nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Sequence
from fnmatch import fnmatchcase
from itertools import count

import structlog

from tailrace.cluster.ingress.orders import AddReplica, ClusterModel
from tailrace.cluster.ingress.state_channel import StateChannel
from tailrace.cluster.ingress.upstream import UpstreamPool
from tailrace.cluster.metrics.request_counts import RequestCounts
from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster.routing.choose import choose
from tailrace.cluster.routing.sent_requests import Prompt, SentRequests
from tailrace.cluster_protocol.state import SILENCE_SECONDS, StateMessage
from tailrace.models.reference import name_key

_LATEST = ":latest"


class Replica:
    """One replica: its view, its connections and its channel."""

    def __init__(
        self, order: AddReplica, secret: str, on_change: Callable[[Replica, str], None], *, silence_seconds: float
    ) -> None:
        self.view = ReplicaView(order.id, order.host, order.port)
        self.models = order.models
        self.pool = UpstreamPool(order.host, order.port)
        self.removed = False  #: the parent has taken it out
        self.requests = 0  #: that it works on
        self._reported = ""
        self._on_change = on_change
        self._channel = StateChannel(
            order.host,
            order.port,
            secret,
            self._on_message,
            self._on_lost,
            self._on_overdue,
            silence_seconds=silence_seconds,
        )

    @property
    def takes_requests(self) -> bool:
        """Whether a new request may be sent to it."""
        return self.view.takes_requests and not self.removed

    def serves(self, model: str) -> bool:
        """Whether it has the model with this name, which is its own or an alias."""
        return self.view.load_of(model) is not None

    def close(self) -> None:
        """Follow it no more."""
        self._channel.close()
        self.pool.close()

    def _on_message(self, message: StateMessage) -> None:
        self.view.apply(message)
        self._report(self.view.phase)

    def _on_lost(self, reason: str, drained: bool) -> None:
        if not self.view.gone:
            self.view.mark_gone()
            left, self.pool = self.pool, UpstreamPool(self.view.host, self.view.port)
            if drained:
                left.close()  # The last bytes of replies may still be on their way.
            else:
                left.abort()
        self._report("gone")

    def _on_overdue(self) -> None:
        self.view.behind = True

    def _report(self, phase: str) -> None:
        if phase != self._reported:
            self._reported = phase
            self._on_change(self, phase)


class Replicas:
    """See the module. ``on_phase`` gets a replica's id and its phase, ``gone`` included, when that changes.
    ``silence_seconds``: of a replica, after which it is lost.
    """

    def __init__(
        self, secret: str, on_phase: Callable[[str, str], None], *, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self.counts = RequestCounts()
        self._secret = secret
        self._on_phase = on_phase
        self._silence_seconds = silence_seconds
        self._replicas: dict[str, Replica] = {}
        self._models: tuple[ClusterModel, ...] = ()
        self._sent = SentRequests()
        self._numbers = count(1)
        self._waiting: dict[asyncio.Future[None], str] = {}  #: with the model that is waited for
        self._log = structlog.get_logger()

    # Orders

    def add(self, order: AddReplica) -> None:
        """Use one more replica, or another one under this id."""
        self.remove(order.id)
        self._replicas[order.id] = Replica(order, self._secret, self._on_change, silence_seconds=self._silence_seconds)

    def remove(self, identity: str) -> None:
        """Send the replica nothing more. Harmless where there is none."""
        replica = self._replicas.get(identity)
        if replica is not None:
            replica.removed = True
            self._close_removed(replica)

    def set_models(self, models: Sequence[ClusterModel]) -> None:
        """Serve these models, the default first."""
        self._models = tuple(models)
        self._wake()

    def close(self) -> None:
        """Follow no replica any more."""
        for replica in self._replicas.values():
            replica.close()

    # Models

    @property
    def all(self) -> list[Replica]:
        """Every replica that the parent has named, whatever its state."""
        return [replica for replica in self._replicas.values() if not replica.removed]

    @property
    def models(self) -> list[str]:
        """The names of all models, the default first."""
        if self._models:
            return [model.name for model in self._models]
        return list(dict.fromkeys(name for replica in self.all for name in (*replica.view.models, *replica.models)))

    @property
    def waiting(self) -> Counter[str]:
        """How many requests wait for a replica of each model."""
        return Counter(self._waiting.values())

    def find(self, name: str) -> str | None:
        """The name of the model that a client calls ``name``: a name, another spelling of it, or an alias."""
        bare, key = name.removesuffix(_LATEST), name_key(name)
        for matches in (
            lambda model: bare == model.name,
            lambda model: key in (model.name.casefold(), *model.keys),
            lambda model: any(fnmatchcase(key, alias.casefold().removesuffix(_LATEST)) for alias in model.aliases),
        ):
            if (found := next((model.name for model in self._models if matches(model)), None)) is not None:
                return found
        loads = (replica.view.load_of(name) for replica in self.all)
        return next((load.name for load in loads if load is not None), None)

    def wakes(self, model: str) -> bool:
        """Whether a replica of the model may be started for a request."""
        return any(known.wakes for known in self._models if known.name == model)

    def max_replicas(self, model: str) -> int:
        """How many replicas of the model there may be; 0: not known."""
        return next((known.max_replicas for known in self._models if known.name == model), 0)

    # Choice

    def is_ready(self, model: str) -> bool:
        """Whether a replica of the model takes requests."""
        return any(replica.takes_requests and replica.serves(model) for replica in self._replicas.values())

    def ready(self, model: str | None, tried: Container[str] = ()) -> list[Replica]:
        """The replicas of the model that take requests, without those that were ``tried``; None: of any model."""
        return [
            replica
            for replica in self._replicas.values()
            if replica.takes_requests and replica.view.id not in tried and (model is None or replica.serves(model))
        ]

    def choose(
        self, model: str | None, prompts: Sequence[Prompt] = (), tried: Container[str] = (), *, sequences: int = 1
    ) -> Placement | None:
        """The replica for a request, which counts there until ``Placement.end``; None where there is none."""
        candidates = self.ready(model, tried)
        if not candidates:
            return None
        prompt_tokens = sum(prompt.tokens for prompt in prompts)
        chosen, new_tokens = min(candidates, key=lambda each: each.requests), prompt_tokens
        if model is not None:
            views = [replica.view for replica in candidates]
            choice = choose(model, prompts, views, self._sent, sequences=sequences)
            if choice is not None:  # None: no engine is ready, and the replicas let requests wait.
                chosen, new_tokens = self._replicas[choice.replica.id], choice.new_tokens
        placement = Placement(self, chosen, next(self._numbers))
        placement.prompt_tokens, placement.held_tokens = prompt_tokens, prompt_tokens - new_tokens
        if model is not None:
            self._sent.sent(placement.number, chosen.view.id, model, prompts, new_tokens, sequences)
        return placement

    async def change(self, model: str) -> None:
        """Return when replicas have changed; meanwhile a request counts as waiting for the model."""
        changed = asyncio.get_running_loop().create_future()
        self._waiting[changed] = model
        try:
            await changed
        finally:
            self._waiting.pop(changed, None)

    def begun(self, number: int) -> None:
        """See ``Placement``."""
        self._sent.begun(number)

    def ended(self, number: int, replica: Replica) -> None:
        """See ``Placement``."""
        self._sent.ended(number)
        if replica.removed:
            self._close_removed(replica)

    def _on_change(self, replica: Replica, phase: str) -> None:
        self._log.info("a replica has changed", replica=replica.view.id, phase=phase)
        self._on_phase(replica.view.id, phase)
        self._wake()

    def _wake(self) -> None:
        for changed in list(self._waiting):
            if not changed.done():
                changed.set_result(None)

    def _close_removed(self, replica: Replica) -> None:
        """Its channel stays open while replies run, so that its loss is noticed."""
        if not replica.requests:
            replica.close()
            if self._replicas.get(replica.view.id) is replica:
                del self._replicas[replica.view.id]
                self.counts.forget(replica.view.id)


class Placement:
    """A request's place at a replica, until ``end``."""

    def __init__(self, replicas: Replicas, replica: Replica, number: int) -> None:
        self.replica = replica
        self.number = number
        self.prompt_tokens = 0  #: of the request's prompts, where they are known
        self.held_tokens = 0  #: of them, those that the replica holds
        self._replicas = replicas
        self._ended = False
        replica.requests += 1

    def begun(self) -> None:
        """An engine works on the request."""
        self._replicas.begun(self.number)

    def end(self) -> None:
        """The replica has nothing of the request any more. Harmless the second time."""
        if not self._ended:
            self._ended = True
            self.replica.requests -= 1
            self._replicas.ended(self.number, self.replica)
