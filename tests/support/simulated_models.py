"""Models whose engines are simulated: a discrete-event simulation of the load policy, with its invariants checked.

Clients send requests one after the other, each a pause after the reply to the one before. Engines load, serve and end
in given times. Everything is deterministic.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tailrace.serving.load_policy import Decision, decide
from tailrace.serving.model_load import ModelLoad


@dataclass(frozen=True)
class SimulatedModel:
    """A model: its bytes, and the seconds for loading and ending it. ``bad_loads``: how many loads fail at first."""

    name: str
    size: int = 100
    load: float = 1.0
    unload: float = 0.2
    bad_loads: int = 0
    pinned: bool = False
    idle_seconds: float = math.inf
    places: int = 0
    workers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Ask:
    """A request that a client sends ``pause`` seconds after its last reply; the reply takes ``seconds``."""

    model: str
    seconds: float = 1.0
    pause: float = 0.0
    keep_alive: float | None = None


@dataclass
class Served:
    """A request as it was served. ``began`` is None where it was refused."""

    client: int
    model: str
    arrival: float
    began: float | None = None
    ended: float = math.inf
    ahead: int = 0  #: models that were waited for longer when it came
    refusal: str = ""

    @property
    def wait(self) -> float:
        assert self.began is not None
        return self.began - self.arrival


@dataclass
class Outcome:
    """What has happened."""

    requests: list[Served] = field(default_factory=list)
    loads: list[tuple[float, str]] = field(default_factory=list)
    unloads: list[tuple[float, str]] = field(default_factory=list)
    max_memory: int = 0

    def waits(self) -> list[float]:
        """The waits of the requests that were served."""
        return [request.wait for request in self.requests if request.began is not None]

    def arrivals(self) -> list[tuple[float, str]]:
        """When which model was asked for."""
        return sorted((request.arrival, request.model) for request in self.requests)


class Simulation:
    """See the module. ``check`` is called with the models and each decision."""

    def __init__(
        self,
        models: Sequence[SimulatedModel],
        memory: int,
        clients: Sequence[Sequence[Ask]],
        *,
        preloaded: Iterable[str] = (),
        check: Callable[[Sequence[ModelLoad], Decision], None] | None = None,
    ) -> None:
        self._kinds = {model.name: model for model in models}
        self.models = {
            model.name: ModelLoad(
                model.name,
                model.size,
                pinned=model.pinned,
                idle_seconds=model.idle_seconds,
                places=model.places,
                workers=model.workers,
            )
            for model in models
        }
        self._bad = {model.name: model.bad_loads for model in models}
        self._memory = memory
        self._clients = [iter(asks) for asks in clients]
        self._check = check
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._alarms: set[float] = set()
        self._now = 0.0
        self._queues: dict[str, list[tuple[Served, Ask]]] = {name: [] for name in self._kinds}
        self.outcome = Outcome()
        for name in preloaded:
            self.models[name].reported("serving", 0.0)

    def run(self) -> Outcome:
        """Serve everything, and return what has happened. Fails where something waits for ever."""
        for client in range(len(self._clients)):
            self._next(client)
        steps = itertools.count()
        self._decide()
        while self._events:
            assert next(steps) < 100_000, "the policy goes round in circles"
            self._now, _, act = heapq.heappop(self._events)
            act()
            self._decide()
        assert not any(self._queues.values()), "a request waits for ever"
        return self.outcome

    def _at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), act))

    def _next(self, client: int) -> None:
        ask = next(self._clients[client], None)
        if ask is not None:
            self._at(self._now + ask.pause, lambda: self._arrive(client, ask))

    def _arrive(self, client: int, ask: Ask) -> None:
        model = self.models[ask.model]
        older = [other for other in self.models.values() if other is not model and other.oldest <= self._now]
        served = Served(client, ask.model, self._now, ahead=len(older))
        self.outcome.requests.append(served)
        self._queues[ask.model].append((served, ask))
        model.arrived(self._now)
        if ask.keep_alive is not None:
            model.keep_alive = ask.keep_alive

    def _decide(self) -> None:
        models = list(self.models.values())
        decision = decide(models, self._memory, self._now)
        if self._check is not None:
            self._check(models, decision)
        for name, why in decision.refuse.items():
            for served, _ in self._queues[name]:
                served.refusal = why
                self.models[name].left(served.arrival)
                self._next(served.client)
            self._queues[name].clear()
        for name in decision.unload:
            self._unload(self.models[name])
        for name in decision.load:
            self._load(self.models[name])
        for name, count in decision.begin.items():
            for served, ask in self._queues[name][:count]:
                self._begin(served, ask)
            del self._queues[name][:count]
        self.outcome.max_memory = max(self.outcome.max_memory, sum(model.taken for model in models))
        assert self.outcome.max_memory <= self._memory, "over the memory"
        assert decision.decide_at > self._now
        if decision.decide_at < math.inf and decision.decide_at not in self._alarms:
            self._alarms.add(decision.decide_at)
            self._at(decision.decide_at, lambda: None)

    def _begin(self, served: Served, ask: Ask) -> None:
        served.began = self._now
        self.models[served.model].began(served.arrival)

        def end() -> None:
            served.ended = self._now
            self.models[served.model].ended(self._now)
            self._next(served.client)

        self._at(self._now + ask.seconds, end)

    def _load(self, model: ModelLoad) -> None:
        assert not model.is_present
        model.load_ordered(self._now)
        self.outcome.loads.append((self._now, model.name))

        def loaded() -> None:
            if self._bad[model.name] > 0:
                self._bad[model.name] -= 1
                model.reported("failed", self._now, reason="the file is broken")
            else:
                model.reported("serving", self._now)

        self._at(self._now + self._kinds[model.name].load, loaded)

    def _unload(self, model: ModelLoad) -> None:
        assert model.is_idle, "a model with requests is unloaded"
        model.unload_ordered(self._now)
        self.outcome.unloads.append((self._now, model.name))
        self._at(self._now + self._kinds[model.name].unload, lambda: model.reported("unloaded", self._now))


def longest_wait(
    models: Sequence[SimulatedModel], loads: Sequence[ModelLoad], longest_reply: float, ahead: int
) -> float:
    """The stated bound of a request's wait, with ``ahead`` models that were waited for longer."""
    turn = max(load.turn_seconds for load in loads)
    swap = max(model.load + model.unload for model in models)
    return (ahead + 1) * (turn + longest_reply + swap)
