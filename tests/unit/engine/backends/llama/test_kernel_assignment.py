"""Which kernels compute each weight tensor, and for which tensors a buffer type of llama.cpp is set by name."""

from __future__ import annotations

import re

from gguf import GGMLQuantizationType as Kind

from tailrace.engine.backends.llama.kernel_assignment import (
    OWN,
    OWN_REPACKED,
    UPSTREAM,
    UPSTREAM_REPACKED,
    Assignment,
    OwnKernels,
    assign_kernels,
    buffer_type_overrides,
    ends_in_repacked_buffers,
    repackable_part,
    summary,
    tensor_bytes,
)
from tailrace.models.model_header import Tensor

NO_KERNELS = OwnKernels(frozenset(), frozenset())
OWN_KERNELS = OwnKernels(frozenset({Kind.Q4_0, Kind.Q5_0, Kind.Q4_K}), frozenset({Kind.Q4_0}))
REPACK = 4711


def tensor(name: str, kind: Kind = Kind.Q4_0, *sizes: int) -> Tensor:
    return Tensor(f"{name}.weight", int(kind), sizes or ((256, 512, 8) if name.endswith("_exps") else (256, 512)))


def repack_buffer_type(tensor: Tensor, experts: bool) -> int | None:
    """As llama.cpp answers on x86: it repacks some formats, with experts or without."""
    assert experts == tensor.name.endswith("_exps.weight")
    return REPACK if Kind(tensor.ggml_type) in (Kind.Q4_0, Kind.IQ4_NL, Kind.Q4_K) else None


def assigned(
    *tensors: Tensor, kernels: OwnKernels = OWN_KERNELS, upstream: bool = False
) -> dict[str, tuple[str, int | None]]:
    return {
        each.tensor.name.removesuffix(".weight"): (each.kernels, each.buffer_type)
        for each in assign_kernels(tensors, kernels, repack_buffer_type, upstream_repacks=upstream)
    }


def test_experts_are_computed_by_own_kernels_in_formats_that_these_know() -> None:
    found = assigned(
        tensor("blk.0.ffn_up_exps"),
        tensor("blk.0.ffn_gate_exps", Kind.Q4_K),
        tensor("blk.0.ffn_down_exps", Kind.Q8_0),
        tensor("blk.1.ffn_up_exps", Kind.IQ4_NL),
        tensor("blk.1.ffn_down_exps", Kind.Q4_0, 256, 24, 8),
    )
    assert found == {
        "blk.0.ffn_up_exps": (OWN_REPACKED, None),
        "blk.0.ffn_gate_exps": (OWN, None),
        "blk.0.ffn_down_exps": (UPSTREAM, None),
        "blk.1.ffn_up_exps": (UPSTREAM_REPACKED, REPACK),
        "blk.1.ffn_down_exps": (OWN, None),
    }


def test_matrices_of_heads_that_llama_cpp_would_repack_are_noticed() -> None:
    """Its buffers for AMX take them, and its graph of latent attention then ends the process."""
    others = tensor("blk.0.attn_q"), tensor("blk.0.ffn_up_exps")
    assert not ends_in_repacked_buffers(others, repack_buffer_type)
    for kind, ends in ((Kind.Q4_0, True), (Kind.Q8_0, False)):
        heads = tensor("blk.0.attn_k_b", kind, 128, 512, 16)
        assert ends_in_repacked_buffers((*others, heads), repack_buffer_type) == ends
        assert assigned(heads, kernels=NO_KERNELS) == {"blk.0.attn_k_b": (UPSTREAM, None)}


def test_so_are_formats_and_shapes_that_own_kernels_do_not_repack() -> None:
    found = assigned(
        tensor("blk.0.attn_q", Kind.IQ4_NL),
        tensor("blk.0.attn_k", Kind.Q5_0),
        tensor("blk.0.attn_v", Kind.Q4_0, 256, 12),
        tensor("blk.0.attn_output", Kind.F16),
    )
    assert found == {
        "blk.0.attn_q": (UPSTREAM_REPACKED, REPACK),
        "blk.0.attn_k": (OWN, None),
        "blk.0.attn_v": (OWN, None),
        "blk.0.attn_output": (UPSTREAM, None),
    }


def test_no_buffer_type_is_set_by_name_where_llama_cpp_repacks_all() -> None:
    tensors = (tensor("blk.0.attn_q"), tensor("blk.0.attn_k", Kind.Q5_0), tensor("blk.0.ffn_up_exps"))
    assert assigned(*tensors, upstream=True) == {
        "blk.0.attn_q": (UPSTREAM_REPACKED, None),
        "blk.0.attn_k": (OWN, None),
        "blk.0.ffn_up_exps": (UPSTREAM_REPACKED, None),
    }
    assert assigned(*tensors, kernels=NO_KERNELS, upstream=True)["blk.0.attn_k"] == (UPSTREAM, None)


def test_embeddings_that_are_read_by_row_are_never_repacked() -> None:
    table = tensor("token_embd", Kind.IQ4_NL)
    assert assigned(table, tensor("output")) == {"output": (OWN_REPACKED, None)}
    assert assigned(table) == {"token_embd": (UPSTREAM, None)}, "these embeddings are the output matrix, too"
    assert assigned(Tensor("blk.0.attn_norm.weight", 0, (256,)), Tensor("blk.0.attn_q.bias", 0, (256, 1))) == {}


def test_the_part_that_can_be_repacked_counts_bytes_of_matrices() -> None:
    half = [tensor("blk.0.attn_q"), tensor("blk.0.attn_v", Kind.Q4_0, 256, 12), tensor("output", Kind.Q5_0)]
    own, other, odd = 256 * 512 // 32 * 18, 256 * 512 // 32 * 22, 256 * 12 // 32 * 18
    norm = Tensor("blk.0.attn_norm.weight", int(Kind.F32), (256,))
    assert repackable_part([*half, norm], OWN_KERNELS) == own / (own + other + odd)
    assert repackable_part([tensor("blk.0.ffn_up_exps"), norm], OWN_KERNELS) == 1
    # A matrix for each head, as latent attention has them, isn't repacked.
    assert repackable_part([tensor("blk.0.attn_k_b", Kind.Q4_0, 128, 512, 16)], OWN_KERNELS) == 0
    assert repackable_part(half, NO_KERNELS) == repackable_part([norm], OWN_KERNELS) == 0


def test_the_last_rows_of_a_matrix_are_repacked_but_not_those_of_experts() -> None:
    assert assigned(tensor("blk.0.ssm_in", Kind.Q4_0, 256, 24), tensor("blk.0.ffn_up_exps", Kind.Q4_0, 256, 24, 4)) == {
        "blk.0.ssm_in": (OWN_REPACKED, None),
        "blk.0.ffn_up_exps": (OWN, None),
    }


def test_floats_are_computed_only_where_they_are_repacked() -> None:
    own = OwnKernels(OWN_KERNELS.formats, OWN_KERNELS.repacked | {Kind.F16})
    found = assigned(
        tensor("blk.0.attn_q", Kind.F16),
        tensor("blk.0.attn_k", Kind.F16, 256, 12),
        tensor("blk.0.attn_v", Kind.F16, 40, 512),
        tensor("blk.0.attn_kv_b", Kind.F16, 256, 512, 4),
        kernels=own,
    )
    assert found == {
        "blk.0.attn_q": (OWN_REPACKED, None),
        "blk.0.attn_k": (UPSTREAM, None),
        "blk.0.attn_v": (UPSTREAM, None),
        "blk.0.attn_kv_b": (UPSTREAM, None),
    }


def test_names_become_few_patterns_that_find_them_and_no_others() -> None:
    def assignment(name: str, buffer_type: int | None) -> Assignment:
        return Assignment(tensor(name), UPSTREAM_REPACKED if buffer_type else UPSTREAM, buffer_type)

    assignments = [assignment(f"blk.{layer}.ffn_up_exps", 1) for layer in range(30)]
    assignments += [assignment(f"blk.{layer}.ffn_down_exps", 1 if layer % 2 else None) for layer in range(30)]
    assignments += [assignment("output", 2), assignment("blk.3.attn_output", None)]
    found = buffer_type_overrides((each.tensor.name, each.buffer_type) for each in assignments)
    assert len(found) == 3
    for each in assignments:
        types = [buffer_type for pattern, buffer_type in found if re.search(pattern, each.tensor.name)]
        assert types == ([each.buffer_type] if each.buffer_type else []), each.tensor.name
    assert buffer_type_overrides([("output.weight", None)]) == []


def test_the_summary_has_counts_and_bytes_by_kernels() -> None:
    assignments = assign_kernels(
        [tensor("blk.0.attn_q"), tensor("blk.1.attn_q"), tensor("a_exps")],
        OWN_KERNELS,
        repack_buffer_type,
        upstream_repacks=False,
    )
    size = 256 * 512 // 32 * 18
    assert summary(assignments) == {OWN_REPACKED: (3, 10 * size)}
    assert tensor_bytes(Tensor("a.weight", 9999, (256, 2))) == 0, "a format that is newer than the library"
