"""Loads the starter model, or another, into the tests' own process: all on the CPU, with two threads."""

from __future__ import annotations

from pathlib import Path

from tailrace.engine.backends.llama import LlamaBackend, LlamaOptions
from tailrace.machine.plan import PoolPlan
from tailrace.models.kv_shape import F16_CACHE, CacheTypes
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL


def load_starter(
    types: CacheTypes = F16_CACHE, *, ctx: int = 2048, kv_tokens: int = 0, path: Path | None = None
) -> LlamaBackend:
    """The backend, for eight requests at a time. ``path``: of another model."""
    options = LlamaOptions(
        decode_pool=PoolPlan(2),
        prefill_pool=PoolPlan(2),
        ctx=ctx,
        parallel=8,
        kv_tokens=kv_tokens,
        batch=256,
        gpu_layers=0,
        cache_types=types,
    )
    return LlamaBackend(path or locate_model(STARTER_MODEL).path, options)
