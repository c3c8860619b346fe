"""A served model's work, as the cluster's ingress gets it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from tailrace.cluster_protocol.state import ModelLoad
from tailrace.models.reference import name_keys
from tailrace.server.models.model_service import ModelService


def load_of(service: ModelService) -> ModelLoad:
    """The model's work now, of all its engines together."""
    engine, spec = service.engine, service.spec
    alive = [connection for connection in engine.connections if not engine.is_stalled(connection)]
    reports = [connection.prefixes for connection in alive if connection.prefixes is not None]
    slots = sum(connection.parallel for connection in alive)
    if not slots and service.phase == "unloaded":
        slots = spec.settings.parallel  # A request loads it.
    return ModelLoad(
        name=service.name,
        keys=_keys(service.name, spec.settings.model),
        aliases=spec.settings.aliases,
        running=engine.running,
        waiting=engine.waiting,
        waiting_prompt_tokens=sum(report.waiting_prompt_tokens for report in reports),
        slots=slots,
        engines=len(alive),
        free_tokens=sum(report.free_tokens for report in reports) if reports else None,
        prefill_speed=_mean(report.prefill_speed for report in reports),
        reply_tokens=_mean_reply(service),
        decode_speed=sum(report.decode_speed for report in reports),
        disk_speed=_mean(report.disk_speed for report in reports),
    )


def _mean_reply(service: ModelService) -> float:
    """Tokens of the replies so far, as a mean, to two digits: a mean that hardly changes isn't sent again."""
    totals = [service.metrics.requests(replica) for replica in range(service.replicas)]
    ended = sum(sum(each.finished.values()) for each in totals)
    return float(f"{sum(each.generation_tokens for each in totals) / ended:.2g}") if ended else 0.0


def _mean(speeds: Iterator[float]) -> float:
    """The mean of the measured speeds; 0 where there is none."""
    measured = [speed for speed in speeds if speed]
    return sum(measured) / len(measured) if measured else 0.0


@lru_cache(maxsize=1024)
def _keys(name: str, reference: str) -> tuple[str, ...]:
    return name_keys(name, reference)
