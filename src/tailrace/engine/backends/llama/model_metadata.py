"""Reads the facts of a loaded model: its metadata, its description and its chat template."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as llama


def metadata_value(model: llama.llama_model_p, key: str) -> str | None:
    """The value of a metadata key, as text; None where the model doesn't have it."""
    buffer = ctypes.create_string_buffer(256)
    length = llama.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if length >= 0 else None


def architecture_value(model: llama.llama_model_p, key: str) -> str | None:
    """As ``metadata_value``, of a key whose name begins with the model's architecture."""
    return metadata_value(model, f"{metadata_value(model, 'general.architecture')}.{key}")


def description(model: llama.llama_model_p) -> str:
    """Architecture, size and format in a few words, such as ``llama 135M Q4_1``."""
    buffer = ctypes.create_string_buffer(256)
    llama.llama_model_desc(model, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def chat_template(model: llama.llama_model_p) -> str | None:
    """The model's own chat template; None where it has none."""
    template: bytes | None = llama.llama_model_chat_template(model, None)
    return None if template is None else template.decode("utf-8", "replace")


def kv_bytes_per_cell(model: llama.llama_model_p) -> int:
    """Memory of one cell of the KV cache: K and V of all layers, two bytes a number."""
    heads = max(1, llama.llama_model_n_head(model))
    head_dim = llama.llama_model_n_embd(model) // heads
    kv_dim = head_dim * llama.llama_model_n_head_kv(model)
    return int(max(1, 2 * 2 * kv_dim * llama.llama_model_n_layer(model)))
