"""How much memory a model may take here: for copies of its weights, and for its KV cache."""

from __future__ import annotations

from pathlib import Path

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.llama.model_loader import is_interleaved
from tailrace.engine.backends.llama.options import LlamaOptions
from tailrace.engine.kernels import loader
from tailrace.engine.kv_cache.layout import CELL_PADDING
from tailrace.machine.free_memory import available_memory, node_memory
from tailrace.models.shards import total_bytes

#: Part of the machine's free memory that the KV cache may grow to where --kv-tokens doesn't say.
_MEMORY_PART = 0.5
#: Part of it that weights may take where the kernels have a copy of them.
_WEIGHTS_PART = 0.75
#: Bytes of cells that a pool has from the start. One that grows holds everybody up while its content moves, and memory
#: that is touched for the first time does where a virtual machine has to ask its host for it: 2.4 ms a MB here, 0.35 s
#: when 5,461 cells of the starter model came to a new page in all layers at once. So these are taken at load
#: (``kernels/memory.c``).
_START_BYTES = 256 << 20
#: Not more cells, however small: what finished requests leave stays in them, and a step looks at the mask of each.
#: Eight streams of the starter model take 1.05 of the usual beside 14,000 such cells, 1.1 to 1.25 beside 28,000.
_START_MOST = 16_384
#: Not fewer, however large: those are not taken at load.
_START_LEAST = 4096


def offloads(options: LlamaOptions) -> bool:
    """Whether layers lie on a GPU."""
    return options.gpu_layers != 0 and llama.llama_supports_gpu_offload()


def for_copies(path: Path, options: LlamaOptions) -> int:
    """Bytes of weights that the kernels may copy: all, or none where they are of no use or would leave too little.

    The weights themselves count only where they are this process's: of a file nobody reads the pages any more.
    """
    if loader.status() != "on" or offloads(options) or not is_interleaved(path):
        return 0
    # A copy of super-blocks is up to a 36th larger, whose scales are bytes in it.
    weights = total_bytes(path) * 37 // 36
    needed = 2 * weights if options.own_weights else weights
    return weights if needed <= _WEIGHTS_PART * _available(options) else 0


def for_cells(context: int, bytes_per_cell: int, options: LlamaOptions, *, copies: int) -> int:
    """Cells of the KV cache, of ``bytes_per_cell`` each, beside so many bytes of copies: a whole ``context`` for each
    parallel request, if memory allows, and at least one.
    """
    affordable = int(_MEMORY_PART * (_available(options) - copies) / bytes_per_cell)
    return max(context, min(options.parallel * context, affordable))


def at_start(bytes_per_cell: int) -> int:
    """Cells that a pool has from the start, of ``bytes_per_cell`` each."""
    cells = _START_BYTES // bytes_per_cell // CELL_PADDING * CELL_PADDING
    return max(_START_LEAST, min(cells, _START_MOST))


def _available(options: LlamaOptions) -> float:
    """Bytes of memory that are this process's share of what is free."""
    available = available_memory() / options.replicas
    return available if options.node is None else min(available, node_memory(options.node))
