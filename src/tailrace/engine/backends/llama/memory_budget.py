"""How much memory a model may take on this machine: for repacked weights, and for its KV cache."""

from __future__ import annotations

from pathlib import Path

from tailrace.engine.backends.llama.devices import has_gpu
from tailrace.engine.backends.llama.model_loader import repacks_most_weights
from tailrace.engine.backends.llama.model_metadata import RecurrentState
from tailrace.engine.backends.llama.options import LlamaOptions
from tailrace.engine.kernels import loader
from tailrace.engine.kv_cache.layout import CELL_PADDING
from tailrace.machine.free_memory import available_memory, node_memory
from tailrace.models.shards import total_bytes

#: Part of the available memory that the KV cache may grow to where --kv-tokens isn't set.
_KV_PART = 0.5
#: Part of the available memory that repacked weights may take.
_WEIGHTS_PART = 0.75
#: Bytes of a shared KV cache that are allocated and touched at load (``kernels/loading/memory.c``). Growing later
#: pauses all sequences: memory that is touched first costs 2.4 ms per MB in a virtual machine.
_INITIAL_KV_BYTES = 256 << 20
#: Upper bound of the initial cells for models with small cells. Finished requests stay in these cells, and each step
#: visits their mask: 14,000 such cells make a step of eight sequences 1.05 times as long.
_MAX_INITIAL_CELLS = 16_384
#: Lower bound of the initial cells for models with large cells. These are not touched at load.
_MIN_INITIAL_CELLS = 4096
#: Upper bound of the cells that have addresses from the start. llama.cpp visits all of them when the end of a sequence
#: is removed: 100 µs for 65,536.
_MAX_RESERVED_CELLS = 131_072
#: Bytes that all slots' snapshots may take: so many, or this part of what a pass reads; and this part of the available
#: memory.
_SNAPSHOT_BYTES = 512 << 20
_SNAPSHOTS_PART = 0.1
#: The part by which snapshots may slow a pass down.
_SNAPSHOT_SLOWDOWN = 0.01
#: How many bytes of weights are read in the time in which llama.cpp copies one byte of a convolution's state.
_SNAPSHOT_COST = 4.0
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def offloads(options: LlamaOptions) -> bool:
    """Whether llama.cpp puts layers on a GPU by itself."""
    return options.placed is None and options.gpu_layers != 0 and has_gpu()


def attends_on_cpu(options: LlamaOptions) -> bool:
    """Whether the CPU computes all attention."""
    return options.placed.placement.attends_on_cpu if options.placed is not None else not offloads(options)


def kv_on_devices(options: LlamaOptions) -> bool:
    """Whether a placement puts a part of the KV cache on devices."""
    return options.placed is not None and not options.placed.placement.attends_on_cpu


def repacked_weights(path: Path, options: LlamaOptions) -> int:
    """Bytes that repacked weights may take: enough for all of them, or 0 where they are useless or too large.

    The original weights count only where they are in this process's own memory. Pages of a mapped file aren't read
    again after repacking, so the kernel can drop them.
    """
    if loader.status() != "on" or offloads(options) or not repacks_most_weights(path, options.placed):
        return 0
    # Repacked super-blocks store their scales as bytes, which takes up to an 18th more (Q3_K).
    placed = options.placed
    local = total_bytes(path) if placed is None else placed.local_bytes
    weights = local * 19 // 18
    needed = 2 * weights if options.private_weights else weights
    return weights if needed <= _WEIGHTS_PART * _available(options) else 0


def kv_cells(max_context: int, bytes_per_cell: int, options: LlamaOptions, *, repacked_bytes: int) -> int:
    """Cells that the KV cache may have: ``max_context`` for each parallel request if memory allows, else fewer.

    The result is at least ``max_context``. ``repacked_bytes`` are taken from the available memory first.
    """
    affordable = int(_KV_PART * (_available(options) - repacked_bytes) / bytes_per_cell)
    if options.placed is not None and (on_devices := options.placed.max_cells()) is not None:
        affordable = min(affordable, on_devices)
    return max(max_context, min(options.parallel * max_context, affordable))


def snapshots(state: RecurrentState, pass_bytes: int, options: LlamaOptions) -> int:
    """Copies of each slot's recurrent state that the memory has for the last tokens of each pass, so that draft tokens
    can be dropped. ``pass_bytes``: weights that a pass reads. 0 where nothing is known of the state.

    llama.cpp writes all snapshots of convolutions in every pass, also without drafts, so small models have none.
    """
    if not state.total_bytes or not options.draft_tokens:
        return 0
    affordable = int(_SNAPSHOT_SLOWDOWN * pass_bytes / (_SNAPSHOT_COST * max(1, state.convolution_bytes))) - 1
    budget = min(max(_SNAPSHOT_BYTES, int(pass_bytes * _SNAPSHOTS_PART)), int(_available(options) * _SNAPSHOTS_PART))
    return max(0, min(options.draft_tokens, affordable, budget // (state.total_bytes * options.parallel)))


def initial_cells(bytes_per_cell: int) -> int:
    """Cells that a shared KV cache has at load."""
    cells = _INITIAL_KV_BYTES // bytes_per_cell // CELL_PADDING * CELL_PADDING
    return max(_MIN_INITIAL_CELLS, min(cells, _MAX_INITIAL_CELLS))


def reserved_cells(max_cells: int) -> int:
    """Cells of a shared KV cache that have addresses from the start, of ``max_cells`` that there may be. 0 where the
    kernel counts addresses as memory (proc(5), overcommit_memory).
    """
    strict = _OVERCOMMIT.read_text().strip() == "2" if _OVERCOMMIT.exists() else True
    return 0 if strict else min(max_cells, _MAX_RESERVED_CELLS)


def _available(options: LlamaOptions) -> float:
    """Bytes of memory: this process's share of the machine's available memory, within its NUMA node's."""
    available = available_memory() / options.replicas
    return available if options.node is None else min(available, node_memory(options.node))
