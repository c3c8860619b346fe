"""The served models as the dashboard shows them: their phase, what they take, and what may be done with them."""

from __future__ import annotations

import time

import msgspec

from tailrace.server.app_state import AppState
from tailrace.server.models.model_service import ModelService
from tailrace.serving.control import ModelPhase


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One served model."""

    name: str
    phase: ModelPhase
    reason: str | None = None  #: why it can't be loaded
    description: str | None = None  #: its family, size and format; None: it was never loaded
    size: int | None = None  #: bytes of its weights; None: it was never loaded
    memory: int = 0  #: bytes that its engines take and may come to take; 0: they take none, or that isn't measured yet
    context: int | None = None  #: tokens of a prompt and its reply together
    slots: int = 0  #: requests that it decodes at the same time
    running: int = 0
    waiting: int = 0
    loads: int = 0  #: times that it was loaded
    load_seconds: float | None = None  #: mean time of a load
    idle_seconds: float | None = None  #: since its last request; None: requests have it
    pinned: bool = False  #: it isn't unloaded
    can_load: bool = False
    can_unload: bool = False


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/stats/models``."""

    models: list[ModelRow]  #: those that the reader's key may use
    on_demand: bool  #: whether models are loaded and unloaded while the server runs
    memory: int | None  #: bytes that all loaded models may take together; None: one model has all memory
    pulls: bool  #: whether this server lets clients pull models
    serves_pulled: bool  #: whether a pulled model is served at once


def models(app: AppState) -> Models:
    """The models now, for the caller of this request."""
    on_demand = app.loads_on_demand
    return Models(
        models=[_row(service, on_demand=on_demand) for service in app.models.usable],
        on_demand=on_demand,
        memory=app.memory if on_demand else None,
        pulls=app.settings.manage_models,
        serves_pulled=on_demand and app.settings.all_models,
    )


def _row(service: ModelService, *, on_demand: bool) -> ModelRow:
    engine, figures, info = service.engine, service.figures, service.info
    idle = service.idle_since
    pinned = service.spec.settings.pinned
    return ModelRow(
        name=service.name,
        phase=service.phase,
        reason=service.load_error().message if service.phase == "failed" else None,
        description=None if info is None else info.description,
        size=None if info is None else info.size_bytes,
        memory=figures.bytes,
        context=None if info is None else info.context,
        slots=engine.capacity,
        running=engine.running,
        waiting=engine.waiting + service.waiting,
        loads=figures.loads,
        load_seconds=figures.load_seconds / figures.loads if figures.loads and figures.load_seconds else None,
        idle_seconds=None if idle is None else time.monotonic() - idle,
        pinned=pinned,
        can_load=on_demand and service.phase in ("unloaded", "failed"),
        can_unload=on_demand and not pinned and service.phase in ("starting", "serving"),
    )
