"""The header of a model, read from its GGUF file or shards: enough to list models and to refuse an incomplete one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.models.gguf_file import Tensor, Value
from tailrace.models.kv_shape import KVShape
from tailrace.models.metadata_override import with_overrides
from tailrace.models.shards import read_shards

__all__ = ["ModelFacts", "ModelHeader", "Tensor", "Value", "read_facts", "read_header"]


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one model; None where its files don't have them."""

    architecture: str
    name: str | None
    quantisation: str | None  #: the format of most weights, such as ``Q4_K_M``
    parameters: int
    context: int | None  #: tokens that the model was trained for
    chat_template: bool  #: whether it has one
    kv: KVShape | None  #: None also where layers have different numbers of heads, and for encoders, which have no cache


class ModelHeader(msgspec.Struct, frozen=True, kw_only=True):
    """A model's header."""

    facts: ModelFacts
    values: dict[str, Value]  #: by key, except for arrays
    tensors: tuple[Tensor, ...]  #: of all shards
    layer_values: dict[str, tuple[int, ...]] = {}  #: short arrays of whole numbers, by key


def read_facts(path: Path, overrides: Sequence[str] = ()) -> ModelFacts:
    """The facts of a model. Parameters and errors are ``read_header``'s."""
    return read_header(path, overrides).facts


def read_header(path: Path, overrides: Sequence[str] = ()) -> ModelHeader:
    """The header of the model with the file ``path``, which may be any of its shards; with the values of ``overrides``
    (``metadata_override``) instead of the file's.

    Raises ModelError when a file can't be read or its header is incomplete, and when a shard is missing.
    """
    shards = read_shards(path)
    values, tensors = with_overrides(shards.values, overrides), shards.tensors
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelError(f"{path} isn't a whole GGUF file (it names no architecture). Fetch or copy it again")
    name, context = values.get("general.name"), values.get(f"{architecture}.context_length")
    facts = ModelFacts(
        architecture=architecture,
        name=name if isinstance(name, str) else None,
        quantisation=_quantisation(values.get("general.file_type")),
        parameters=sum(tensor.elements for tensor in tensors),
        context=context if isinstance(context, int) else None,
        chat_template="tokenizer.chat_template" in values,
        kv=_kv_shape(values, architecture, tensors),
    )
    return ModelHeader(facts=facts, values=values, tensors=tensors, layer_values=shards.layer_values)


def _kv_shape(values: dict[str, Value], architecture: str, tensors: Sequence[Tensor]) -> KVShape | None:
    if values.get(f"{architecture}.attention.causal") is False:
        return None

    def number(key: str) -> int | None:
        value = values.get(f"{architecture}.{key}")
        return value if isinstance(value, int) and value > 0 else None

    layers, heads, n_embd = number("block_count"), number("attention.head_count"), number("embedding_length")
    if layers is None or heads is None or n_embd is None:
        return None
    kv_heads = number("attention.head_count_kv") or heads
    key_length = number("attention.key_length") or n_embd // heads
    # A hybrid model has a cache in some layers alone, as their tensors show. The engine counts alike (``kv_shape``).
    keys = [tensor.dimensions[-1] for tensor in tensors if tensor.name.endswith(".attn_k.weight")]
    if 0 < len(keys) < layers:
        layers, kv_heads = 1, -(-sum(keys) // key_length)
    return KVShape(layers, kv_heads, key_length, number("attention.value_length") or key_length)


def _quantisation(file_type: Value) -> str | None:
    """The file type's usual name, such as ``Q4_K_M``; None where it is missing or unknown to the gguf library."""
    if not isinstance(file_type, int):
        return None
    # This import takes 0.14 s, so it is done only where a file has a type.
    from gguf.constants import LlamaFileType

    try:
        return str(LlamaFileType(file_type).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return None
