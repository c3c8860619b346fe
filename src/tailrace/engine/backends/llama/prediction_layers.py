"""Which models have a prediction layer (MTP, also called NextN) that can draft here. Decided by a file's header."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import llama_cpp.llama_cpp as llama

from tailrace.models.gguf_file import Tensor, Value

#: Architectures whose prediction layer this llama.cpp computes (LLM_GRAPH_TYPE_DECODER_MTP). Others would build the
#: graph of the whole model on a cache of one layer.
_ARCHITECTURES = frozenset(
    {
        "bailingmoe3",
        "cohere2moe",
        "deepseek2",
        "deepseek32",
        "glm-dsa",
        "glm4moe",
        "nemotron_h_moe",
        "qwen35",
        "qwen35moe",
        "qwen3next",
    }
)
#: The functions of llama-ext.h that give hidden states, by their names in C++.
SET_HIDDEN = "_Z26llama_set_embeddings_nextnP13llama_contextbb"
GET_HIDDEN = "_Z26llama_get_embeddings_nextnP13llama_context"


def has_prediction_layer(values: dict[str, Value], tensors: Seq[Tensor]) -> bool:
    """Whether the model with this header has a prediction layer that can draft here: exactly one, and whole."""
    architecture = values.get("general.architecture")
    layers = values.get(f"{architecture}.block_count")
    if architecture not in _ARCHITECTURES or values.get(f"{architecture}.nextn_predict_layers") != 1:
        return False
    if not isinstance(layers, int) or not all(hasattr(llama._lib, name) for name in (SET_HIDDEN, GET_HIDDEN)):
        return False
    names = {tensor.name for tensor in tensors}
    needed = {f"blk.{layers - 1}.nextn.{name}.weight" for name in ("eh_proj", "enorm", "hnorm")}
    return needed | {"blk.0.attn_norm.weight"} <= names


def without_prediction_layers(values: dict[str, Value], tensors: Seq[Tensor]) -> list[Tensor]:
    """The tensors that llama.cpp loads where it doesn't load prediction layers."""
    architecture = values.get("general.architecture")
    layers = values.get(f"{architecture}.block_count")
    predicting = values.get(f"{architecture}.nextn_predict_layers")
    if not isinstance(layers, int) or not isinstance(predicting, int) or not 0 < predicting < layers:
        return list(tensors)
    skipped = tuple(f"blk.{layer}." for layer in range(max(0, layers - predicting), layers))
    return [tensor for tensor in tensors if not tensor.name.startswith(skipped)]
