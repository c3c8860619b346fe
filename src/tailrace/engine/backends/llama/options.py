"""The options of loading a model with llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass

from tailrace.machine.plan import PoolPlan


@dataclass(frozen=True, kw_only=True)
class LlamaOptions:
    """How to load a model. ``ctx`` and ``kv_tokens`` 0 mean: choose from the model and the available memory."""

    decode_pool: PoolPlan
    prefill_pool: PoolPlan
    ctx: int  #: tokens of one request, at most
    parallel: int  #: requests at the same time, at most
    kv_tokens: int  #: cells of the KV cache, at most
    batch: int  #: tokens of one ``decode``, at most
    gpu_layers: int
    private_weights: bool = False  #: read the weights into memory of this process instead of mapping the file
    replicas: int = 1  #: engine processes that share the machine's memory
    node: int | None = None  #: the NUMA node that memory is bound to
