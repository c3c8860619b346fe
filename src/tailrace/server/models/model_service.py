"""One served model: its settings, the client of its engines, its phase, and what depends on it.

The phase is what the supervisor has reported last, and what the engines' connections show at once. It knows no policy:
``model_turn.ModelGate`` decides when a model is loaded and unloaded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from tailrace.errors import ModelError, ModelLoadFailed
from tailrace.models.derived_models import DerivedModel
from tailrace.observe.metrics import Metrics
from tailrace.observe.model_figures import LoadFigures
from tailrace.protocol import ModelInfo
from tailrace.server.engine_client import EngineClient
from tailrace.server.known_prompts import KnownPrompts
from tailrace.server.model_overrides import DerivedModelCache
from tailrace.server.models.engine_hub import EngineHub
from tailrace.server.served_model import ServedModel
from tailrace.server.system_fingerprint import file_identity, system_fingerprint
from tailrace.serving.control import ModelPhase, ModelReport
from tailrace.serving.model_spec import ModelSpec

#: Derived models whose merged settings are remembered. More than a store has.
_MAX_MERGED = 1000


class LoadOrders(Protocol):
    """The way of orders to the supervisor."""

    def load(self, spec: ModelSpec) -> None:
        """See ``serving.control.LoadModel``."""
        ...

    def unload(self, name: str) -> None:
        """See ``serving.control.UnloadModel``."""
        ...

    def serve(self, spec: ModelSpec) -> None:
        """See ``serving.control.ServeModel``."""
        ...

    def remove(self, name: str) -> None:
        """See ``serving.control.RemoveModel``."""
        ...


class ModelService:
    """See the module.

    ``waiting`` and ``running`` count the turns of requests (``model_turn.ModelTurn``): those that want the model, and
    those that have it.
    """

    def __init__(
        self, spec: ModelSpec, hub: EngineHub, metrics: Metrics, orders: LoadOrders | None = None, *, replicas: int = 1
    ) -> None:
        """``orders`` None: its engines start with the server and stay. ``replicas``: how many engines it has."""
        settings = spec.settings
        self.spec = spec
        self.name = spec.name
        self.path = Path(spec.path) if spec.path is not None else None
        self.replicas = replicas
        self.engine = EngineClient(
            spec.name, hub.timer, wait_seconds=settings.engine_wait_seconds, hang_seconds=settings.hang_seconds
        )
        if settings.cluster_secret is not None:
            self.engine.known_prompts = KnownPrompts()
        hub.add(self.engine)
        self.engine.on_ready = self._on_ready
        self.engine.on_lost = self._on_lost
        self.engine.on_unusable = self._on_unusable
        self.phase: ModelPhase = "starting" if orders is None or spec.at_start else "unloaded"
        self.reason = ""  #: why it failed, or what it waits for
        self.failed_at = 0.0  #: when, by the monotonic clock
        self.info: ModelInfo | None = None  #: what its engines have said last; stays while it is unloaded
        self.vocabulary_size = 0  #: tokens
        self.figures = LoadFigures()
        self.metrics = metrics.add_model(spec.name, self.engine, self, replicas)
        self.waiting = 0
        self.running = 0
        self.last_used = time.monotonic()  #: when a request had it last, by the monotonic clock
        self.on_change: list[Callable[[ModelService], None]] = []  #: called when its phase has changed
        self.on_ready: Callable[[ServedModel], None] | None = None  #: called for each engine that has connected
        self.on_unusable: Callable[[ModelError], None] | None = None  #: see ``EngineClient``
        self._orders = orders
        self._ordered_at: float | None = None  #: when its load was ordered
        self._is_new = True  #: no engine has connected since it was loaded last
        self._unusable = ""  #: why this process can't use it
        self._file: str | None = None  #: the identity of its file; None: to be read
        self._identifying: asyncio.Future[None] | None = None
        self._fingerprint: tuple[ModelInfo, str] | None = None
        self._derived = DerivedModelCache()
        self._merged: dict[int, tuple[DerivedModel, DerivedModel]] = {}
        self._defaults = _defaults(spec)
        self._log = structlog.get_logger()

    # Phase

    @property
    def is_loaded(self) -> bool:
        """Whether an engine is connected that takes requests."""
        return self.phase == "serving"

    @property
    def idle_since(self) -> float | None:
        """When its last request ended, by the monotonic clock; None while requests have it."""
        return None if self.running or self.engine.in_flight else self.last_used

    def load(self) -> None:
        """Order its engines. Harmless where they are there or start; not allowed while they stop."""
        if self.phase not in ("unloaded", "failed") or self._orders is None:
            return
        self.reason = self._unusable = ""
        self._ordered_at = time.monotonic()
        self.engine.expect()
        self._orders.load(self.spec)
        self._enter("starting")

    def unload(self) -> None:
        """Order the end of its engines. No request may have it. Harmless where they stop already or aren't there."""
        if self.phase not in ("starting", "serving") or self._orders is None:
            return
        self._orders.unload(self.name)
        self._enter("stopping")

    def on_report(self, report: ModelReport) -> None:
        """The supervisor reports its engines."""
        phase = report.phase
        self.replicas = max(self.replicas, report.replicas)
        self.figures.first_child = report.first_child
        if report.bytes:
            self.figures.bytes = report.bytes
        if phase == "failed":
            self.figures.bytes = report.bytes
            self.fail(report.reason)
        elif phase == "unloaded":
            self.figures.bytes, self._is_new = 0, True
            if self._unusable:
                self.fail(self._unusable)
                return
            if self.phase == "stopping":
                self.figures.unloads += 1
            if self.phase != "failed":
                self._enter("unloaded")
        elif phase == "stopping":
            self._enter("stopping")
        elif self.phase != "stopping" and not self._unusable:
            self.reason = report.reason
            # A report that was sent before the order to unload is out of date.
            self._enter("serving" if self.engine.is_connected else "starting")

    def on_absent(self) -> None:
        """The supervisor has no engines of it: one that was to start with the server didn't fit, or was unloaded before
        this process has started.
        """
        if self.phase == "starting" and self._orders is not None and self._ordered_at is None:
            self._enter("unloaded")

    def fail(self, reason: str) -> None:
        """It can't be loaded: requests that wait for it fail."""
        if self.phase != "failed":
            self.figures.failures += 1
        self.reason, self.failed_at, self._ordered_at = reason, time.monotonic(), None
        self.engine.refuse(self.load_error)
        self._enter("failed")

    def load_error(self) -> ModelLoadFailed:
        """The error of a request for a model that can't be loaded. The file's folder is private, and isn't in it."""
        folder = "" if self.path is None else f"{self.path.parent}/"
        reason = self.reason.replace(folder, "") if len(folder) > 2 else self.reason
        return ModelLoadFailed(f"The model '{self.name}' can't be loaded: {reason}")

    def _enter(self, phase: ModelPhase) -> None:
        if phase == self.phase:
            return
        self.phase = phase
        if phase in ("starting", "serving"):
            self.engine.expect()
        for call in list(self.on_change):
            call(self)

    def _on_ready(self, model: ServedModel) -> None:
        self.info, self.vocabulary_size = model.info, len(model.vocabulary)
        self._file = None
        self._identifying = asyncio.ensure_future(self.identify())  # Before the first request wants it.
        self.replicas = max(self.replicas, *(connection.replica + 1 for connection in self.engine.connections))
        if self.phase != "stopping":
            if self._is_new:
                now = time.monotonic()
                self.figures.loaded(0.0 if self._ordered_at is None else now - self._ordered_at)
            self._is_new, self._ordered_at = False, None
            self._enter("serving")
        if self.on_ready is not None:
            self.on_ready(model)

    def _on_lost(self) -> None:
        if self.phase == "serving":
            self._enter("starting")  # The supervisor starts another one, or reports that there is none.

    def _on_unusable(self, error: ModelError) -> None:
        if self.on_unusable is not None:
            self.on_unusable(error)
        self._unusable = str(error)
        self._log.error("a model can't be used", model=self.name, reason=self._unusable)
        if self._orders is None:
            self.fail(self._unusable)
        else:
            self.unload()  # It fails once its engines have ended, so that their memory counts until then.

    # What depends on it

    async def with_overrides(self, model: ServedModel, derived: DerivedModel | None) -> ServedModel:
        """``model`` with the changes of ``derived`` to it, and with the defaults of its settings."""
        entry = self._entry(derived)
        if entry is None:
            return model
        made = self._derived.get(model, entry)
        # A template is tried and compiled.
        return made if made is not None else await asyncio.to_thread(self._derived.make, model, entry)

    @property
    def defaults(self) -> DerivedModel | None:
        """The settings' defaults of its requests, in the form of a derived model."""
        return self._defaults

    def _entry(self, derived: DerivedModel | None) -> DerivedModel | None:
        """The changes of ``derived``, and the settings' defaults where it changes nothing."""
        defaults = self._defaults
        if derived is None or defaults is None:
            return derived or defaults
        known = self._merged.get(id(derived))
        if known is None or known[0] is not derived:
            if len(self._merged) >= _MAX_MERGED:
                self._merged.clear()
            parameters = {**defaults.parameters, **derived.parameters}
            merged = msgspec.structs.replace(derived, system=derived.system or defaults.system, parameters=parameters)
            known = self._merged[id(derived)] = (derived, merged)
        return known[1]

    async def identify(self) -> None:
        """Read the identity of its file, where that isn't known since the last load."""
        if self._file is None:
            file = "" if self.path is None else await asyncio.to_thread(file_identity, self.path)
            self._file, self._fingerprint = file, None

    def forget(self) -> None:
        """Free the memory of what depends on it. Its next engine brings that again."""
        self.engine.forget_model()
        self._derived = DerivedModelCache()

    def fingerprint(self, model: ServedModel) -> str:
        """``system_fingerprint`` of replies by this model."""
        if self._fingerprint is None or self._fingerprint[0] is not model.info:
            self._fingerprint = (model.info, system_fingerprint(self.spec.settings, model.info, self._file or ""))
        return self._fingerprint[1]


def _defaults(spec: ModelSpec) -> DerivedModel | None:
    """The settings' system prompt and sampling parameters, in the form of a derived model."""
    settings = spec.settings
    if not settings.system_prompt and not settings.sampling:
        return None
    return DerivedModel(base=spec.name, system=settings.system_prompt or "", parameters=settings.sampling)
