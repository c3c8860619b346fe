"""The kernels' code for each instruction tier: it compiles on every x86 machine, and exports the same functions."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from tailrace.engine.kernels import build
from tailrace.engine.native_libs.library import Source, ensure_built
from tailrace.engine.native_libs.tiers import TIERS, TierName

#: Called by llama.cpp or by Python.
EXPORTED = (
    "llamafile_sgemm",
    "ggml_compute_forward_mul_mat_tiled",
    "ggml_compute_forward_flash_attn_ext",
    "ggml_tiled_wdata_size",
    "ggml_barrier",
    "ggml_aligned_malloc",
    "ggml_aligned_free",
    "ggml_backend_buffer_clear",
    "tailrace_kernels_upstream_name",
    "tailrace_kernels_upstream_required",
    "tailrace_kernels_set_upstream",
    "tailrace_kernels_format",
    "tailrace_kernels_amx_usable",
    "tailrace_kernels_set_repack_budget",
    "tailrace_kernels_repacked_bytes",
    "tailrace_kernels_free_repacked",
    "tailrace_kernels_take_row_maxima",
    "tailrace_kernels_attention_counts",
    "tailrace_kernels_set_exact_tokens",
    "tailrace_kernels_cache_type",
    "tailrace_kernels_set_spins",
    "tailrace_kernels_serve_weights",
    "tailrace_kernels_served_bytes",
    "tailrace_kernels_ahead_count",
    "tailrace_kernels_compute_in_order",
    "ggml_backend_graph_compute_async",
    "ggml_backend_sched_graph_compute_async",
    "ggml_backend_sched_split_graph",
    "tailrace_kernels_product_counts",
    "ggml_backend_buffer_free",
    "ggml_backend_tensor_memset",
)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("tier", build.KERNEL_TIERS)
def test_each_tier_compiles_on_any_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: TierName) -> None:
    """Nothing of the library is run here, so this CPU needn't have its instructions."""
    monkeypatch.setattr(type(TIERS[tier]), "require", lambda _: None)
    source = Source("kernels", build.SOURCES, lambda _: [], build.source().include)
    library = ctypes.CDLL(str(ensure_built(source, TIERS[tier], tmp_path)))
    assert [name for name in EXPORTED if not hasattr(library, name)] == []
    # What only its own files call is hidden: another library may have such a name.
    assert not any(hasattr(library, name) for name in ("find_repacked", "prompt_product", "upstream"))
