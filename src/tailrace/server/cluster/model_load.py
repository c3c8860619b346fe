"""A served model's work, as the cluster's ingress gets it."""

from __future__ import annotations

from functools import lru_cache

from tailrace.cluster_state import ModelLoad
from tailrace.models.reference import name_keys
from tailrace.server.models.model_service import ModelService


def load_of(service: ModelService) -> ModelLoad:
    """The model's load now."""
    engine, settings = service.engine, service.spec.settings
    return ModelLoad(
        name=service.name,
        keys=_keys(service.name, settings.model),
        aliases=settings.aliases,
        running=engine.running,
        waiting=engine.waiting,
        slots=engine.capacity,
        engines=engine.replicas_ready,
    )


@lru_cache(maxsize=1024)
def _keys(name: str, reference: str) -> tuple[str, ...]:
    return name_keys(name, reference)
