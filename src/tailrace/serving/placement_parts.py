"""A model's parts for the planner of placements, from the header of its file.

Names of tensors are llama.cpp's, the same for all architectures (``llama-arch.cpp``). What a header doesn't say is
taken so that a plan is never over memory: a cache keeps whole contexts, where only some layers have windows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from tailrace.errors import ModelError
from tailrace.machine.placement.parts import NO_PART, Layer, ModelParts, Part
from tailrace.models.gguf_file import Tensor
from tailrace.models.kv_shape import CacheTypes, vector_bytes
from tailrace.models.model_header import ModelHeader

_LAYER = re.compile(r"blk\.(\d{1,6})\.(.+)")
#: Routed experts: all experts' matrices in one tensor.
_EXPERTS = re.compile(r"ffn_(gate|up|down|gate_up)_exps\b")
#: Bytes of a number in a recurrent state.
_FLOAT = 4
#: ``LLAMA_MAX_LAYERS`` of llama.cpp, which loads no model with more.
_MAX_LAYERS = 512


def placement_parts(header: ModelHeader, types: CacheTypes) -> ModelParts:
    """The parts of the model with this header; its cache has keys and values of ``types``.

    Raises ModelError where a tensor's format isn't known, and where the file has no layers or too many.
    """
    ends: dict[str, list[Tensor]] = defaultdict(list)
    layers: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for tensor in header.tensors:
        if matched := _LAYER.match(tensor.name):
            layers[int(matched[1])][matched[2]] = tensor
        else:
            ends["output" if tensor.name.startswith("output") else "embedding"].append(tensor)
    if not layers:
        raise ModelError("the file has no layers: it isn't a language model")
    if (count := max(layers) + 1) > _MAX_LAYERS:
        raise ModelError(f"the file names layer {count - 1}, and llama.cpp has at most {_MAX_LAYERS} layers")
    experts = _number(header, "expert_count")
    embedding = _part(ends["embedding"])
    tied = not any(tensor.name == "output.weight" for tensor in ends["output"])
    # A model without an output matrix uses the embedding, of which llama.cpp loads a copy for the output's device.
    output = _part([*ends["output"], *(tensor for tensor in ends["embedding"] if tied and _is_embedding(tensor))])
    width, vocabulary = next((tensor.dimensions[:2] for tensor in ends["embedding"] if _is_embedding(tensor)), (0, 0))
    return ModelParts(
        embedding=embedding,
        output=output,
        layers=tuple(_layer(layers[number], header, types) for number in range(count)),
        width=width,
        vocabulary=vocabulary,
        experts=experts,
        experts_used=min(experts, _number(header, "expert_used_count")),
    )


def _is_embedding(tensor: Tensor) -> bool:
    return tensor.name == "token_embd.weight" and len(tensor.dimensions) == 2


def _layer(tensors: dict[str, Tensor], header: ModelHeader, types: CacheTypes) -> Layer:
    experts = [tensor for name, tensor in tensors.items() if _EXPERTS.match(name)]
    feed_forward = [tensor for name, tensor in tensors.items() if name.startswith("ffn_") and not _EXPERTS.match(name)]
    attention = [tensor for name, tensor in tensors.items() if not name.startswith("ffn_")]
    recurrent = any(name.startswith(("ssm_", "time_mix_", "shortconv")) for name in tensors)
    return Layer(
        attention=_part(attention),
        feed_forward=_part(feed_forward),
        experts=_part(experts) if experts else NO_PART,
        kv_bytes=_cache_bytes(tensors, header, types),
        state_bytes=_state_bytes(header) if recurrent else 0,
    )


def _cache_bytes(tensors: dict[str, Tensor], header: ModelHeader, types: CacheTypes) -> int:
    """Bytes of a token's keys and values, by the rows of the matrices that make them."""
    if (compressed := tensors.get("attn_kv_a_mqa.weight")) is not None:
        # Multi-head latent attention keeps the compressed vector with its rotated part, for keys and values together.
        return vector_bytes(compressed.dimensions[-1], types.k)
    if (fused := tensors.get("attn_qkv.weight")) is not None:
        made = max(0, fused.dimensions[-1] - _number(header, "attention.head_count") * _head(header))
        return vector_bytes(made // 2, types.k) + vector_bytes(made - made // 2, types.v)
    keys, values = tensors.get("attn_k.weight"), tensors.get("attn_v.weight")
    if keys is None:
        return 0  # It uses another layer's cache.
    # Without a matrix for values, keys are both.
    return vector_bytes(keys.dimensions[-1], types.k) + vector_bytes((values or keys).dimensions[-1], types.v)


def _head(header: ModelHeader) -> int:
    heads = _number(header, "attention.head_count")
    return _number(header, "attention.key_length") or (_number(header, "embedding_length") // heads if heads else 0)


def _state_bytes(header: ModelHeader) -> int:
    """Bytes of one sequence's recurrent state in a layer: the state itself, and the convolution's last inputs."""
    inner = _number(header, "ssm.inner_size") or _number(header, "embedding_length")
    state = _number(header, "ssm.state_size") or 1
    return _FLOAT * inner * (state + max(0, _number(header, "ssm.conv_kernel") - 1))


def _number(header: ModelHeader, key: str) -> int:
    value = header.values.get(f"{header.facts.architecture}.{key}")
    return value if isinstance(value, int) and value > 0 else 0


def _part(tensors: Iterable[Tensor]) -> Part:
    tensors = list(tensors)
    matrices = sum(tensor.elements for tensor in tensors if len(tensor.dimensions) > 1)
    return Part(bytes=sum(map(_bytes, tensors)), weights=matrices)


def _bytes(tensor: Tensor) -> int:
    # The import takes a tenth of a second, which only a plan needs.
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)]
    except ValueError as error:
        raise ModelError(f"the tensor {tensor.name} has a format that isn't known: {tensor.ggml_type}") from error
    return -(-tensor.elements // int(block)) * int(size)
