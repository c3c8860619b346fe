"""Which layouts a model's KV cache may have, and how many cells."""

from __future__ import annotations

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.llama import memory_budget
from tailrace.engine.backends.llama.options import LlamaOptions
from tailrace.engine.kernels import loader
from tailrace.engine.kv_cache.layout import CELL_PADDING, LayoutPolicy
from tailrace.errors import ConfigurationError


def plan_layouts(
    options: LlamaOptions, max_context: int, bytes_per_cell: int, *, repacked_bytes: int, fixed: bool
) -> LayoutPolicy:
    """The layouts that options and memory allow. ``max_context``: tokens of the longest request. ``repacked_bytes``:
    memory that repacked weights may take. ``fixed``: the model allows only the first layout.

    Raises ConfigurationError where ``kv_tokens`` is too small for one request.
    """
    limit = options.kv_tokens or memory_budget.kv_cells(
        max_context, bytes_per_cell, options, repacked_bytes=repacked_bytes
    )
    if limit < max_context:
        raise ConfigurationError(
            f"kv_tokens is {limit} but one request may have ctx {max_context} tokens: raise --kv-tokens or lower --ctx"
        )
    on_devices = memory_budget.kv_on_devices(options)
    own_attention = loader.status() == "on" and memory_budget.attends_on_cpu(options)
    max_cells = -(-limit // CELL_PADDING) * CELL_PADDING
    return LayoutPolicy(
        slots=min(llama.llama_max_parallel_sequences(), options.parallel),
        max_cells=max_cells,
        context=max_context,
        always_shared=own_attention or on_devices,
        # Another layout would bring all states from the devices and back.
        fixed=on_devices or fixed,
        initial_cells=memory_budget.initial_cells(bytes_per_cell),
        reserved_cells=memory_budget.reserved_cells(max_cells) if own_attention else 0,
    )
