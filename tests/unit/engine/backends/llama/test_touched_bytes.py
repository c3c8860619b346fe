"""The weights that one token reads, by a model's tensors and metadata."""

from __future__ import annotations

from gguf import GGMLQuantizationType as Kind

from tailrace.engine.backends.llama.touched_bytes import touched_bytes
from tailrace.models.model_header import Tensor

#: Bytes of a matrix of 256 by 512 weights in Q4_0.
MATRIX = 256 * 512 // 32 * 18


def matrix(name: str, experts: int = 0) -> Tensor:
    return Tensor(f"{name}.weight", int(Kind.Q4_0), (256, 512, experts) if experts else (256, 512))


def touched(*tensors: Tensor, **numbers: int) -> int:
    return touched_bytes(tensors, lambda key: numbers.get(key, 0))


def test_all_matrices_of_a_dense_model_are_read_and_its_vectors_are_not_counted() -> None:
    norm = Tensor("blk.0.attn_norm.weight", int(Kind.F32), (256,))
    assert touched(matrix("blk.0.attn_q"), norm, matrix("blk.0.ffn_up"), block_count=1) == 2 * MATRIX


def test_of_experts_those_that_a_token_is_sent_to_are_read() -> None:
    tensors = matrix("blk.0.ffn_up_exps", 64), matrix("blk.0.ffn_up_shexp")
    assert touched(*tensors, block_count=1, expert_count=64, expert_used_count=8) == (8 + 1) * MATRIX


def test_embeddings_are_read_where_they_are_the_output_matrix() -> None:
    assert touched(matrix("token_embd")) == MATRIX
    assert touched(matrix("token_embd"), matrix("output")) == MATRIX


def test_prediction_layers_are_not_read() -> None:
    layers = matrix("blk.0.ffn_up"), matrix("blk.1.ffn_up"), matrix("blk.11.ffn_up")
    assert touched(*layers, block_count=12, nextn_predict_layers=1) == 2 * MATRIX
    assert touched(*layers, block_count=2, nextn_predict_layers=1) == 2 * MATRIX


def test_a_number_of_prediction_layers_that_cannot_be_is_ignored() -> None:
    assert touched(matrix("blk.0.ffn_up"), block_count=1, nextn_predict_layers=10**15) == MATRIX
