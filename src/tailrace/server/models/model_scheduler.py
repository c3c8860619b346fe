"""The gate of a server with several models: it feeds the load policy with events, and carries out its decisions.

The decisions are ``serving.load_policy``'s. This module reads the clock, keeps the waiting requests, and orders loads
and unloads. It decides after events, at the ticks of the requests' timer, and, only while a request waits, at the
moment that the policy names.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from tailrace.errors import ModelLoadFailed, ModelNotFound
from tailrace.server.engine_client import shutting_down
from tailrace.server.models.model_service import ModelService
from tailrace.server.models.model_turn import ModelTurn
from tailrace.serving.device_list import worker_addresses
from tailrace.serving.load_policy import Decision, decide, why_never_loaded
from tailrace.serving.memory_share import load_bytes
from tailrace.serving.model_load import ModelLoad
from tailrace.serving.model_spec import ModelSpec


class _Model:
    """One model: its service, what the policy knows of it, and its requests."""

    def __init__(self, service: ModelService) -> None:
        settings = service.spec.settings
        self.service = service
        self.load = ModelLoad(
            service.name,
            0,
            pinned=settings.pinned,
            idle_seconds=settings.idle_seconds or math.inf,
            workers=worker_addresses(settings),
        )
        self.waiting: dict[ModelTurn, asyncio.Future[None]] = {}  #: oldest first
        self.running: Counter[str] = Counter()  #: requests by caller

    def next_turn(self) -> ModelTurn | None:
        """The turn that begins next: the oldest one of the callers that have fewest running."""
        waits = (turn for turn, future in self.waiting.items() if not future.done() and not turn.begun)
        return min(waits, key=lambda turn: (self.running[turn.caller], turn.asked_at), default=None)


class ModelScheduler:
    """See the module and ``ModelGate``."""

    def __init__(self, memory: int, *, plan: Callable[[ModelSpec, int], int] = load_bytes) -> None:
        """``memory``: bytes that all loaded models may take together; ``plan`` estimates those of one of them."""
        self._memory = memory
        self._estimate = plan
        self._models: dict[str, _Model] = {}
        self._turns: dict[ModelTurn, _Model] = {}  #: of requests that wait or run; a model may be removed meanwhile
        self._decision = Decision()
        self._is_due = False  #: a decision follows in this pass of the event loop
        self._is_stopping = False
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, service: ModelService) -> None:
        """See ``ModelGate``. One of the same name that was removed may still end."""
        if (before := self._models.get(service.name)) is not None:
            self._refuse(before, partial(_removed, before.service))
        model = self._models[service.name] = _Model(service)
        if service.phase != "unloaded":
            # Its engines start with the server, so the others have to leave it its memory.
            model.load.need = self._plan(service.spec)
            model.load.reported(service.phase, time.monotonic())
        service.on_change.append(self._on_change)

    # ModelGate

    def remove(self, service: ModelService) -> None:
        """See ``ModelGate``."""
        if (model := self._model(service)) is not None:
            del self._models[service.name]
            self._refuse(model, partial(_removed, service))
        service.on_change.remove(self._on_change)
        self._decide_soon()

    def is_open(self, turn: ModelTurn) -> bool:
        """See ``ModelGate``."""
        model = self._turns[turn] = self._models[turn.service.name]
        load = model.load
        load.arrived(turn.asked_at)
        if load.phase != "serving" or len(load.waiting) > 1 or turn.service.phase != "serving":
            return False
        decision, name = self._decision, load.name
        if name in decision.wanted and (name in decision.draining or not load.free_places):
            return False
        self._begin(model, turn)
        return True

    async def enter(self, turn: ModelTurn) -> None:
        """See ``ModelGate``."""
        model = self._turns[turn]
        if not model.load.need and not model.load.is_present:
            model.load.need = await asyncio.to_thread(self._plan, turn.service.spec)
        if self._is_stopping:
            raise shutting_down()
        if self._model(turn.service) is None:
            raise _removed(turn.service)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        model.waiting[turn] = future
        self._decide_soon()
        try:
            await future
        finally:
            del model.waiting[turn]

    def leave(self, turn: ModelTurn) -> None:
        """See ``ModelGate``."""
        model = self._turns.pop(turn, None)
        if model is None:
            return  # It has never asked whether it may begin.
        if turn.begun:
            model.running[turn.caller] -= 1
            if not model.running[turn.caller]:
                del model.running[turn.caller]
            model.load.ended(time.monotonic())
        else:
            model.load.left(turn.asked_at)
        if self._decision.wanted or model.load.expires_at <= time.monotonic():
            self._decide_soon()

    def tick(self) -> None:
        """See ``ModelGate``."""
        if any(model.load.waits for model in self._models.values()) or self._has_changed():
            self._decide()

    async def load(self, service: ModelService) -> None:
        """See ``ModelGate``."""
        load = self._models[service.name].load
        if not load.need and not load.is_present:
            load.need = await asyncio.to_thread(self._plan, service.spec)
        known, now = [model.load for model in self._models.values()], time.monotonic()
        if load.phase == "failed" and now < load.retry_at:
            raise self._error(service.name, known, now)
        if (why := why_never_loaded(load, known, self._memory)) is not None:
            raise ModelLoadFailed(why)
        load.wanted(now)
        self._decide_soon()

    def keep_alive(self, service: ModelService, seconds: float) -> None:
        """See ``ModelGate``."""
        if (model := self._model(service)) is not None:
            model.load.keep_alive = seconds

    def unload(self, service: ModelService) -> None:
        """See ``ModelGate``."""
        load = self._models[service.name].load
        if load.is_present:
            load.keep_alive = 0.0
            self._decide_soon()

    def expires_in(self, service: ModelService) -> float:
        """See ``ModelGate``."""
        return self._models[service.name].load.seconds_left(time.monotonic())

    def stop(self) -> None:
        """See ``ModelGate``."""
        self._is_stopping = True
        for model in self._models.values():
            self._refuse(model, shutting_down)

    # Events

    def _model(self, service: ModelService) -> _Model | None:
        """The service's model; None for one that was removed, also where another one has its name now."""
        model = self._models.get(service.name)
        return model if model is not None and model.service is service else None

    def _on_change(self, service: ModelService) -> None:
        if (model := self._model(service)) is None:
            return
        load = model.load
        if not load.need and service.phase in ("starting", "serving"):
            load.need = self._plan(service.spec)  # Its engines are there though this process hasn't ordered them.
        load.places = service.engine.capacity or service.spec.settings.parallel
        load.reported(service.phase, time.monotonic(), reason=service.reason)
        self._decide_soon()

    def _has_changed(self) -> bool:
        """Whether a model has been idle for long enough, or the models have grown beyond the memory."""
        self._measure()
        loads = [model.load for model in self._models.values()]
        now = time.monotonic()
        return sum(load.taken for load in loads) > self._memory or any(load.expires_at <= now for load in loads)

    def _measure(self) -> None:
        for model in self._models.values():
            if (used := model.service.figures.bytes) and model.load.is_present:
                model.load.measured(used)

    def _plan(self, spec: ModelSpec) -> int:
        return self._estimate(spec, self._memory)

    # Decisions

    def _decide_soon(self) -> None:
        """Decide once the events of this pass of the loop have been taken."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._decide)

    def _decide(self) -> None:
        self._is_due = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._measure()
        now = time.monotonic()
        known = [model.load for model in self._models.values() if model.load.need or model.load.is_present]
        decision = self._decision = decide(known, self._memory, now)
        for name in decision.refuse:
            self._refuse(self._models[name], partial(self._error, name, known, now))
            self._models[name].load.wanted_since = math.inf
        for name in decision.unload:
            self._models[name].load.unload_ordered(now)
            self._models[name].service.unload()
        for name in decision.load:
            self._models[name].load.load_ordered(now)
            self._models[name].service.load()
        for name, count in decision.begin.items():
            self._grant(self._models[name], count)
        if decision.decide_at < math.inf and any(model.load.waits for model in self._models.values()):
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(max(0.001, decision.decide_at - now), self._decide)

    def _grant(self, model: _Model, count: int) -> None:
        for _ in range(count):
            if (turn := model.next_turn()) is None:
                return
            self._begin(model, turn)
            turn.grant()
            model.waiting[turn].set_result(None)

    def _begin(self, model: _Model, turn: ModelTurn) -> None:
        model.load.began(turn.asked_at)
        model.running[turn.caller] += 1

    def _refuse(self, model: _Model, make_error: Callable[[], Exception]) -> None:
        for turn, future in model.waiting.items():
            if not future.done() and not turn.begun:
                future.set_exception(make_error())

    def _error(self, name: str, loads: list[ModelLoad], now: float) -> ModelLoadFailed:
        load = self._models[name].load
        if (why := why_never_loaded(load, loads, self._memory)) is not None:
            return ModelLoadFailed(why)
        error = self._models[name].service.load_error()
        error.retry_after = max(1, math.ceil(load.retry_at - now))
        return error


def _removed(service: ModelService) -> ModelNotFound:
    return ModelNotFound(f"The model '{service.name}' was deleted while the request waited for it.", param="model")
