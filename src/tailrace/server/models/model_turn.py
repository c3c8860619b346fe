"""A request's use of a model, and the gate that decides when it begins.

A request takes a turn before it is rendered and tokenised, and ends it when its last reply has ended. A model that has
turns isn't unloaded. Gates:

- ``OpenGate``, of a server with one model: each turn begins at once.
- ``model_scheduler.ModelScheduler``, of a server with several.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

from tailrace.server.models.model_service import ModelService


class ModelTurn:
    """One request's turn. Its holder closes it; closing it twice is harmless."""

    __slots__ = ("_closed", "_gate", "asked_at", "begun", "caller", "service")

    def __init__(self, gate: ModelGate, service: ModelService, caller: str) -> None:
        """``caller``: its identity, by which models are shared fairly."""
        self._gate = gate
        self._closed = False
        self.service = service
        self.caller = caller
        self.asked_at = time.monotonic()
        self.begun = False  #: whether the request has the model
        service.waiting += 1

    def try_begin(self) -> bool:
        """Begin at once, where the gate is open for it; False: wait with ``begin``."""
        if not self._gate.is_open(self):
            return False
        self.grant()
        return True

    async def begin(self) -> None:
        """Wait until the gate lets the turn begin. Raises RequestError, and closes the turn where it raises."""
        try:
            await self._gate.enter(self)
        except BaseException:
            self.close()
            raise
        self.grant()

    def grant(self) -> None:
        """Count the turn as running. A gate calls it when it decides that the turn begins: the waiting task runs later,
        and the model must not be unloaded meanwhile. Harmless when repeated.
        """
        if not self.begun and not self._closed:
            self.begun = True
            self.service.waiting -= 1
            self.service.running += 1

    def close(self) -> None:
        """The request doesn't need the model any more."""
        if self._closed:
            return
        self._closed = True
        if self.begun:
            self.service.running -= 1
            self.service.last_used = time.monotonic()
        else:
            self.service.waiting -= 1
        self._gate.leave(self)


class ModelGate(Protocol):
    """Decides when a turn begins, by ``ModelService.load`` and ``unload``. There is one for all models.

    It learns of phases through ``ModelService.on_change``. All calls are on the event loop.
    """

    def is_open(self, turn: ModelTurn) -> bool:
        """Whether the turn begins at once: ``turn.service`` is loaded, and no other turn comes first. Called once for
        each turn, before ``enter``.
        """
        ...

    async def enter(self, turn: ModelTurn) -> None:
        """Return when ``turn.service`` is loaded, or about to be without a further order, and the turn may begin.

        A turn that waits is granted (``ModelTurn.grant``) before the task that waits here goes on. The task is
        cancelled when the client goes or a deadline passes: then ``leave`` follows, also for a granted turn. Raises
        ModelLoadFailed when the model can't be loaded, and ModelNotFound when it is removed meanwhile.
        """
        ...

    def leave(self, turn: ModelTurn) -> None:
        """The turn has ended, or hasn't begun and never will. ``turn.service`` counts it no more."""
        ...

    def add(self, service: ModelService) -> None:
        """One more model is served."""
        ...

    def remove(self, service: ModelService) -> None:
        """The model is served no more, and has no engines. Requests that wait for it fail."""
        ...

    def tick(self) -> None:
        """The timer ticks, about twice a second."""
        ...

    def stop(self) -> None:
        """The server stops: turns that wait raise ShuttingDown."""
        ...

    async def load(self, service: ModelService) -> None:
        """Have the model loaded without a request, as if one waited. Returns before it is loaded, or has failed.

        Raises ModelLoadFailed for a model that can never fit, and for one whose load has failed a moment ago.
        """
        ...

    def keep_alive(self, service: ModelService, seconds: float) -> None:
        """Unload the model when it has been idle for so long; infinite: never. It holds until the next value, or until
        the model is unloaded.
        """
        ...

    def unload(self, service: ModelService) -> None:
        """Unload the model once its running requests have ended, unless it is pinned or has further requests."""
        ...

    def expires_in(self, service: ModelService) -> float:
        """Seconds until the model is unloaded if no further request comes; infinite where it stays."""
        ...


class OpenGate:
    """A gate that is always open: its model is loaded as long as the server runs."""

    def is_open(self, turn: ModelTurn) -> bool:
        """See ``ModelGate``."""
        return True

    async def enter(self, turn: ModelTurn) -> None:
        """See ``ModelGate``."""

    def leave(self, turn: ModelTurn) -> None:
        """See ``ModelGate``."""

    def add(self, service: ModelService) -> None:
        """See ``ModelGate``."""

    def remove(self, service: ModelService) -> None:
        """See ``ModelGate``."""

    def tick(self) -> None:
        """See ``ModelGate``."""

    def stop(self) -> None:
        """See ``ModelGate``."""

    async def load(self, service: ModelService) -> None:
        """See ``ModelGate``."""

    def keep_alive(self, service: ModelService, seconds: float) -> None:
        """See ``ModelGate``."""

    def unload(self, service: ModelService) -> None:
        """See ``ModelGate``."""

    def expires_in(self, service: ModelService) -> float:
        """See ``ModelGate``."""
        return math.inf
