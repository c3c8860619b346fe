"""Which models have a prediction layer (MTP, also called NextN) that can draft here. Decided by a file's header."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import llama_cpp.llama_cpp as llama

from tailrace.models.gguf_file import Tensor, Value

#: What llama.cpp asserts of the prediction layer of each architecture that it computes one of
#: (LLM_GRAPH_TYPE_DECODER_MTP): tensors of the layer's block. A file without them would end the process. Of other
#: architectures it would build the graph of the whole model on a cache of one layer.
_NEXTN = ("nextn.eh_proj", "nextn.enorm", "nextn.hnorm")
_EXPERTS = (*_NEXTN, "ffn_gate_inp")
_LATENT = (
    *_EXPERTS,
    "attn_q_a",
    "attn_q_a_norm",
    "attn_q_b",
    "attn_kv_a_mqa",
    "attn_kv_a_norm",
    "attn_k_b",
    "attn_v_b",
)
_NEEDED = {
    "bailingmoe3": (*_NEXTN, "nextn.shared_head_norm"),
    "deepseek2": (*_LATENT, "ffn_norm", "ffn_down_exps", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"),
    "deepseek32": _LATENT,
    "glm-dsa": _LATENT,
    "glm4moe": _EXPERTS,
    "nemotron_h_moe": (*_EXPERTS, "nextn.shared_head_norm"),
    "qwen35": _NEXTN,
    "qwen35moe": _EXPERTS,
    "qwen3next": _EXPERTS,
}
#: The functions of llama-ext.h that give hidden states, by their names in C++.
SET_HIDDEN = "_Z26llama_set_embeddings_nextnP13llama_contextbb"
GET_HIDDEN = "_Z26llama_get_embeddings_nextnP13llama_context"


def has_prediction_layer(values: dict[str, Value], tensors: Seq[Tensor]) -> bool:
    """Whether the model with this header has a prediction layer that can draft here: exactly one, and whole."""
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in _NEEDED:
        return False
    layers = values.get(f"{architecture}.block_count")
    if not isinstance(layers, int) or values.get(f"{architecture}.nextn_predict_layers") != 1:
        return False
    if not all(hasattr(llama._lib, name) for name in (SET_HIDDEN, GET_HIDDEN)):
        return False
    if _NEEDED[architecture][: len(_LATENT)] == _LATENT and not _has_latent_heads(values, architecture, layers):
        return False
    names = {tensor.name for tensor in tensors}
    needed = {f"blk.{layers - 1}.{name}.weight" for name in _NEEDED[architecture]}
    return needed | {"blk.0.attn_norm.weight"} <= names


def _has_latent_heads(values: dict[str, Value], architecture: str, layers: int) -> bool:
    """Whether the layer has latent attention in the absorbed form and experts, without attention temperature."""
    lengths = [values.get(f"{architecture}.attention.{name}_length_mla") for name in ("key", "value")]
    dense = values.get(f"{architecture}.leading_dense_block_count", 0)
    return (
        all(isinstance(length, int) and length > 0 for length in lengths)
        and isinstance(dense, int)
        and dense < layers
        and not values.get(f"{architecture}.attention.temperature_scale")
    )


def without_prediction_layers(values: dict[str, Value], tensors: Seq[Tensor]) -> list[Tensor]:
    """The tensors that llama.cpp loads where it doesn't load prediction layers."""
    architecture = values.get("general.architecture")
    layers = values.get(f"{architecture}.block_count")
    predicting = values.get(f"{architecture}.nextn_predict_layers")
    if not isinstance(layers, int) or not isinstance(predicting, int) or not 0 < predicting < layers:
        return list(tensors)
    skipped = tuple(f"blk.{layer}." for layer in range(max(0, layers - predicting), layers))
    return [tensor for tensor in tensors if not tensor.name.startswith(skipped)]
