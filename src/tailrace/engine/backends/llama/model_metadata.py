"""Reads the facts of a loaded model: its metadata, its description and its chat template."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import llama_cpp.llama_cpp as llama

from tailrace.models.gguf_file import Tensor
from tailrace.models.kv_shape import KVShape
from tailrace.models.metadata_override import MetadataOverride


class Metadata:
    """A model's metadata as llama.cpp has used them: llama.cpp tells the file's values, without the overrides."""

    def __init__(self, model: llama.llama_model_p, overrides: Sequence[MetadataOverride] = ()) -> None:
        """``overrides``: those that the model was loaded with."""
        self._model = model
        self._overrides = {each.key: _as_text(each.value) for each in overrides}

    def value(self, key: str) -> str | None:
        """The value of a key, as text; None where the model doesn't have it."""
        if key in self._overrides:
            return self._overrides[key]
        buffer = ctypes.create_string_buffer(256)
        length = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None

    def of_architecture(self, key: str) -> str | None:
        """As ``value``, of a key whose name begins with the model's architecture."""
        return self.value(f"{self.value('general.architecture')}.{key}")

    def number(self, key: str) -> int:
        """As ``of_architecture``, of a key that counts something; 0 where the model doesn't have it."""
        text = self.of_architecture(key)
        return int(text) if text is not None and text.isdecimal() else 0


def _as_text(value: float | bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def description(model: llama.llama_model_p) -> str:
    """Architecture, size and format in a few words, such as ``llama 135M Q4_1``."""
    buffer = ctypes.create_string_buffer(256)
    llama.llama_model_desc(model, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def chat_template(model: llama.llama_model_p, name: str | None = None) -> str | None:
    """The model's own chat template, or the one of this name; None where it has none."""
    template: bytes | None = llama.llama_model_chat_template(model, None if name is None else name.encode())
    return None if template is None else template.decode("utf-8", "replace")


def is_causal(metadata: Metadata) -> bool:
    """Whether tokens attend to those before them alone. Other models are encoders and have no KV cache."""
    return metadata.of_architecture("attention.causal") != "false"


def kv_shape(model: llama.llama_model_p, metadata: Metadata, tensors: Iterable[Tensor] = ()) -> KVShape:
    """The sizes of a cell of the KV cache, those of the first layer for all.

    ``tensors``: the model's. A hybrid model has keys in some layers alone, as their tensors show.
    """
    heads = max(1, llama.llama_model_n_head(model))
    key_length = _number(metadata, "attention.key_length") or llama.llama_model_n_embd(model) // heads
    value_length = _number(metadata, "attention.value_length") or key_length
    layers, kv_heads = llama.llama_model_n_layer(model), llama.llama_model_n_head_kv(model)
    if llama.llama_model_is_hybrid(model):
        rows = sum(tensor.dimensions[-1] for tensor in tensors if tensor.name.endswith(".attn_k.weight"))
        if rows:
            return KVShape(1, -(-rows // key_length), key_length, value_length)
    return KVShape(layers, kv_heads, key_length, value_length)


class RecurrentState(NamedTuple):
    """The size of a slot's recurrent state, at most: as if each layer had one. 0 where the model doesn't say."""

    total_bytes: int
    convolution_bytes: int  #: of the inputs that convolutions keep


def recurrent_state(metadata: Metadata) -> RecurrentState:
    """The size of the model's recurrent state."""
    layers, embedding = _number(metadata, "block_count"), _number(metadata, "embedding_length")
    inner, state = _number(metadata, "ssm.inner_size"), _number(metadata, "ssm.state_size")
    channels = inner + 2 * _number(metadata, "ssm.group_count") * state
    convolution = channels * max(0, _number(metadata, "ssm.conv_kernel") - 1)
    convolution += embedding * max(0, _number(metadata, "shortconv.l_cache") - 1)
    return RecurrentState(4 * layers * (inner * state + convolution), 4 * layers * convolution)


def _number(metadata: Metadata, key: str) -> int:
    """A whole number of the architecture's; 0 where the model doesn't say."""
    text = metadata.of_architecture(key)
    return int(text) if text is not None and text.isdecimal() else 0
