"""What a backend over llama.cpp is told when it loads a model."""

from __future__ import annotations

from dataclasses import dataclass

from tailrace.machine.plan import PoolPlan


@dataclass(frozen=True, kw_only=True)
class LlamaOptions:
    """How to load. Zeros mean: choose from the model and the machine."""

    decode_pool: PoolPlan
    prefill_pool: PoolPlan
    ctx: int
    parallel: int
    kv_tokens: int
    batch: int
    gpu_layers: int
    own_weights: bool = False  #: read the weights into memory of this process instead of sharing the file's pages
    replicas: int = 1  #: processes like this one that take memory at the same time
    node: int | None = None  #: the NUMA node that memory is bound to
