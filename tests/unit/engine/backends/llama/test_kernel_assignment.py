"""What computes each product of a model, and which orders llama.cpp is asked for by name."""

from __future__ import annotations

import re

from gguf import GGMLQuantizationType as Kind

from tailrace.engine.backends.llama.kernel_assignment import (
    OWN,
    OWN_REPACKED,
    UPSTREAM,
    UPSTREAM_REPACKED,
    Kernels,
    Placed,
    bytes_of,
    overrides,
    place,
    summary,
)
from tailrace.models.model_header import Tensor

NONE = Kernels(frozenset(), frozenset())
OURS = Kernels(frozenset({Kind.Q4_0, Kind.Q5_0, Kind.Q4_K}), frozenset({Kind.Q4_0}))
REPACK = 4711


def tensor(name: str, kind: Kind = Kind.Q4_0, *sizes: int) -> Tensor:
    return Tensor(f"{name}.weight", int(kind), sizes or ((256, 512, 8) if name.endswith("_exps") else (256, 512)))


def order(tensor: Tensor, experts: bool) -> int | None:
    """As llama.cpp's on x86: of some formats, in matrices of their own or of experts."""
    assert experts == tensor.name.endswith("_exps.weight")
    return REPACK if Kind(tensor.kind) in (Kind.Q4_0, Kind.IQ4_NL, Kind.Q4_K) else None


def ways(*tensors: Tensor, kernels: Kernels = OURS, upstream: bool = False) -> dict[str, tuple[str, int | None]]:
    return {
        each.tensor.name.removesuffix(".weight"): (each.way, each.order)
        for each in place(tensors, kernels, order, upstream=upstream)
    }


def test_experts_keep_llama_cpps_order_beside_ours() -> None:
    found = ways(tensor("blk.0.attn_q"), tensor("blk.0.ffn_up_exps"), tensor("blk.0.ffn_down_exps", Kind.Q8_0))
    assert found == {
        "blk.0.attn_q": (OWN_REPACKED, None),
        "blk.0.ffn_up_exps": (UPSTREAM_REPACKED, REPACK),
        "blk.0.ffn_down_exps": (UPSTREAM, None),
    }


def test_so_do_formats_and_shapes_that_ours_have_no_order_for() -> None:
    found = ways(
        tensor("blk.0.attn_q", Kind.IQ4_NL),
        tensor("blk.0.attn_k", Kind.Q5_0),
        tensor("blk.0.attn_v", Kind.Q4_0, 256, 24),
        tensor("blk.0.attn_output", Kind.F16),
    )
    assert found == {
        "blk.0.attn_q": (UPSTREAM_REPACKED, REPACK),
        "blk.0.attn_k": (OWN, None),
        "blk.0.attn_v": (OWN, None),
        "blk.0.attn_output": (UPSTREAM, None),
    }


def test_where_llama_cpp_reorders_nothing_is_asked_for_by_name() -> None:
    tensors = (tensor("blk.0.attn_q"), tensor("blk.0.attn_k", Kind.Q5_0), tensor("blk.0.ffn_up_exps"))
    assert ways(*tensors, upstream=True) == {
        "blk.0.attn_q": (UPSTREAM_REPACKED, None),
        "blk.0.attn_k": (OWN, None),
        "blk.0.ffn_up_exps": (UPSTREAM_REPACKED, None),
    }
    assert ways(*tensors, kernels=NONE, upstream=True)["blk.0.attn_k"] == (UPSTREAM, None)


def test_a_table_that_is_looked_up_in_is_no_product_and_never_reordered() -> None:
    table = tensor("token_embd", Kind.IQ4_NL)
    assert ways(table, tensor("output")) == {"output": (OWN_REPACKED, None)}
    assert ways(table) == {"token_embd": (UPSTREAM, None)}, "it is the output, too, under the same name"
    assert ways(Tensor("blk.0.attn_norm.weight", 0, (256,)), Tensor("blk.0.attn_q.bias", 0, (256, 1))) == {}


def test_names_become_few_patterns_that_find_them_and_no_others() -> None:
    def placed(name: str, order: int | None) -> Placed:
        return Placed(tensor(name), UPSTREAM_REPACKED if order else UPSTREAM, order)

    products = [placed(f"blk.{layer}.ffn_up_exps", 1) for layer in range(30)]
    products += [placed(f"blk.{layer}.ffn_down_exps", 1 if layer % 2 else None) for layer in range(30)]
    products += [placed("output", 2), placed("blk.3.attn_output", None)]
    found = overrides(products)
    assert len(found) == 3
    for each in products:
        orders = [order for pattern, order in found if re.search(pattern, each.tensor.name)]
        assert orders == ([each.order] if each.order else []), each.tensor.name
    assert overrides([placed("output", None)]) == []


def test_the_summary_has_counts_and_bytes_of_the_ways_that_there_are() -> None:
    products = place([tensor("blk.0.attn_q"), tensor("blk.1.attn_q"), tensor("a_exps")], OURS, order, upstream=False)
    size = 256 * 512 // 32 * 18
    assert summary(products) == {OWN_REPACKED: (2, 2 * size), UPSTREAM_REPACKED: (1, 8 * size)}
    assert bytes_of(Tensor("a.weight", 9999, (256, 2))) == 0, "a format that is newer than the library"
