"""What a model's GGUF file, or its shards, say of themselves: enough to list models and to refuse a broken one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.models.gguf_file import Tensor, Value
from tailrace.models.shards import read_shards

__all__ = ["ModelFacts", "ModelHeader", "Tensor", "Value", "read_facts", "read_header"]


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one model; None where its files don't say."""

    architecture: str
    name: str | None
    quantisation: str | None  #: of most of its weights, such as ``Q4_K_M``
    parameters: int
    context: int | None  #: tokens that it was trained for
    chat_template: bool  #: whether it has one
    kv_bytes_per_token: int | None  #: of KV cache for each token, K and V at two bytes a number


class ModelHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's header says."""

    facts: ModelFacts
    values: dict[str, Value]  #: by key, except for arrays
    tensors: tuple[Tensor, ...]  #: of all shards


def read_facts(path: Path) -> ModelFacts:
    """The facts of a model. Raises ModelError when a file of it can't be read or isn't a whole GGUF header."""
    return read_header(path).facts


def read_header(path: Path) -> ModelHeader:
    """The header of the model that ``path`` is the file of, or any shard. Raises ModelError when a file of it can't be
    read or isn't a whole GGUF header, and when a shard is missing.
    """
    shards = read_shards(path)
    values, tensors = shards.values, shards.tensors
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
        kv_bytes_per_token=_token_bytes(values, architecture),
    )
    return ModelHeader(facts=facts, values=values, tensors=tensors)


def _token_bytes(values: dict[str, Value], architecture: str) -> int | None:
    """None where the file doesn't give each layer the same number of heads (hybrid and recurrent models)."""

    def number(key: str) -> int | None:
        value = values.get(f"{architecture}.{key}")
        return value if isinstance(value, int) and value > 0 else None

    layers, heads, width = number("block_count"), number("attention.head_count"), number("embedding_length")
    if layers is None or heads is None or width is None:
        return None
    shared = number("attention.head_count_kv") or heads
    key = number("attention.key_length") or width // heads
    return 2 * layers * shared * (key + (number("attention.value_length") or key))


def _quantisation(file_type: Value) -> str | None:
    """The file type's usual name, such as ``Q4_K_M``; None when the file doesn't say or says what nobody knows yet."""
    if not isinstance(file_type, int):
        return None
    # Here, because importing it takes 0.14 s that a server's start can do without.
    from gguf.constants import LlamaFileType

    try:
        return str(LlamaFileType(file_type).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return None
