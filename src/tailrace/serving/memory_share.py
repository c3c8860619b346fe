"""How the models of one server share its memory: the budget of all, and each one's part where the settings have none.

With one model the KV cache may have half of the free memory. With several, one model would so keep the others out. So
each gets a KV cache of an eighth of the budget, and a prefix cache of a thirty-second. Pure arithmetic over bytes and a
model's header; docs/many-models.md has the rules.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.machine.gpu import build_backends, offloads, read_gpus
from tailrace.machine.memory_fit import Memory, MemoryDemand
from tailrace.serving import fake_model
from tailrace.serving.device_list import worker_addresses
from tailrace.serving.model_memory import ENGINE, engine_demand
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings

#: The HTTP process and the supervisor under load, and the process that waits for the next load.
_PROCESSES = 200_000_000
#: Memory that no model may take: small allocations, sandboxes, page tables. These bytes, or this part of all memory
#: where that is more.
_RESERVE = 64_000_000
_RESERVE_PART = 32
#: Parts of the budget that one model's KV cache and prefix cache have.
_KV_PART = 8
_KEEP_PART = 32
_MAX_KEEP_MB = 1024
#: The smallest context that is chosen, and what contexts are multiples of.
_MIN_CONTEXT = 2048
_CONTEXT_STEP = 256


def memory_budget(settings: Settings, memory: Memory) -> int:
    """Bytes that all loaded models may take together. ``memory``: the machine's, before any model is loaded."""
    if settings.models_mb:
        return settings.models_mb * 1_000_000
    return max(0, memory.available - _PROCESSES - max(_RESERVE, memory.total // _RESERVE_PART))


def keep_mb(budget: int) -> int:
    """MB of a model's prefix cache where none are set."""
    return min(_MAX_KEEP_MB, budget // _KEEP_PART // 1_000_000)


def share_memory(settings: Settings, demand: MemoryDemand, budget: int) -> Settings:
    """The settings of one of several models, with a context and a KV cache where none were set."""
    each = demand.bytes_per_token
    if not each or not demand.context:
        return settings  # It isn't known what a token takes.
    affordable = budget // _KV_PART // each // _CONTEXT_STEP * _CONTEXT_STEP
    ctx, kv_tokens = settings.ctx, settings.kv_tokens
    if not ctx:
        ctx = min(demand.context, kv_tokens or max(affordable, _MIN_CONTEXT))
    if not kv_tokens:
        kv_tokens = max(ctx, min(settings.parallel * ctx, affordable))
    return msgspec.structs.replace(settings, ctx=ctx, kv_tokens=kv_tokens)


def limited(memory: Memory, settings: Settings) -> Memory:
    """The memory that a server's only model may take: ``models_mb`` where it is set and less."""
    bytes = settings.models_mb * 1_000_000
    if not bytes or bytes >= memory.total:
        return memory
    return Memory(total=bytes, available=min(bytes, memory.available), where="the setting models_mb")


def fill_budget(settings: Settings, demand: MemoryDemand) -> Settings:
    """The settings of a server's only model whose memory ``models_mb`` limits, with a KV cache where none was set: one
    context for each parallel request, as far as the memory goes beside weights, buffers and prefix cache.
    """
    each, ctx = demand.bytes_per_token, settings.ctx or demand.context
    if not settings.models_mb or settings.kv_tokens or not each or not ctx:
        return settings
    left = settings.models_mb * 1_000_000 - demand.weights - demand.buffers - settings.keep_mb * 1_000_000
    affordable = max(0, left) // each // _CONTEXT_STEP * _CONTEXT_STEP
    return msgspec.structs.replace(settings, kv_tokens=max(ctx, min(settings.parallel * ctx, affordable)))


def load_bytes(spec: ModelSpec, budget: int) -> int:
    """All that the engines of one of several models may come to take: weights, buffers, KV and prefix cache.

    Of a file that can't be read it is an engine without a model, which will report the reason. A model that is larger
    than the budget takes all of it where a worker or a GPU may have a part: it is loaded alone, and not refused.
    """
    settings = spec.settings
    if spec.path is None:
        return ENGINE + fake_model.weights_mb(settings.model) * 1_000_000
    try:
        demand = engine_demand(Path(spec.path), settings)
    except (ModelError, OSError):
        return ENGINE
    taken = engine_bytes(share_memory(settings, demand, budget), demand) * max(1, settings.replicas)
    return budget if taken > budget and _has_devices(settings) else taken


def _has_devices(settings: Settings) -> bool:
    """Whether a load may put layers on a worker or a GPU. How many, it alone finds out: what stays here is measured."""
    # A draft model's workers have no part of the model.
    if worker_addresses(msgspec.structs.replace(settings, draft_devices=None)):
        return True
    return settings.gpu_layers != 0 and offloads(read_gpus(), build_backends())


def engine_bytes(settings: Settings, demand: MemoryDemand) -> int:
    """All that one engine may come to take with these settings."""
    kv = max(settings.kv_tokens, settings.ctx) * demand.bytes_per_token
    keep = settings.keep_mb * 1_000_000 if demand.bytes_per_token else 0
    return demand.weights + demand.buffers + kv + keep
