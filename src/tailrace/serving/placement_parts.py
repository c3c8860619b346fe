"""A model's parts for the planner of placements, from the header of its file.

Names of tensors are llama.cpp's, the same for all architectures (``llama-arch.cpp``). What a header doesn't say is
taken so that a plan is never over memory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

from tailrace.errors import ModelError
from tailrace.machine.placement.parts import NO_PART, Layer, ModelParts, Part, PinnedPart
from tailrace.models.attention_windows import attention_windows
from tailrace.models.gguf_file import Tensor
from tailrace.models.kv_shape import CacheTypes, vector_bytes
from tailrace.models.model_header import ModelHeader

#: The embedding, which is the output matrix, too, of a model without ``OUTPUT``.
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
#: The part that a tensor belongs to.
TensorKind = Literal["attention", "feed forward", "experts", "output", "embedding"]

_LAYER = re.compile(r"blk\.(\d{1,6})\.(.+)")
#: Routed experts: all experts' matrices in one tensor.
_EXPERTS = re.compile(r"ffn_(gate|up|down|gate_up)_exps\b")
#: Bytes of a number in a recurrent state.
_FLOAT = 4
#: ``LLAMA_MAX_LAYERS`` of llama.cpp, which loads no model with more.
_MAX_LAYERS = 512


def layer_of(name: str) -> int | None:
    """The layer of a tensor with this name; None of one beside the layers."""
    matched = _LAYER.match(name)
    return int(matched[1]) if matched else None


def kind_of(name: str) -> TensorKind:
    """The part that a tensor with this name belongs to. A layer's norms and recurrent parts count as attention."""
    matched = _LAYER.match(name)
    if matched is None:
        return "output" if name.startswith("output") else "embedding"
    if _EXPERTS.match(matched[2]):
        return "experts"
    return "feed forward" if matched[2].startswith("ffn_") else "attention"


def layer_count(header: ModelHeader) -> int:
    """The model's layers, as llama.cpp numbers them. Raises ModelError where there are none or too many."""
    numbers = [number for tensor in header.tensors if (number := layer_of(tensor.name)) is not None]
    count = max(max(numbers, default=-1) + 1, _number(header, "block_count"))
    if not count:
        raise ModelError("the file has no layers: it isn't a language model")
    if count > _MAX_LAYERS:
        raise ModelError(f"the file has {count} layers, and llama.cpp has at most {_MAX_LAYERS}")
    return count


def placement_parts(header: ModelHeader, types: CacheTypes, pinned: Mapping[str, int] | None = None) -> ModelParts:
    """The parts of the model with this header; its cache has keys and values of ``types``.

    ``pinned``: devices of tensors that rules put there. Raises ModelError where a tensor's format isn't known, and
    where the file has no layers or too many.
    """
    pinned = pinned or {}
    count = layer_count(header)
    ends: dict[str, list[Tensor]] = defaultdict(list)
    layers: dict[int, list[Tensor]] = defaultdict(list)
    for tensor in header.tensors:
        if (layer := layer_of(tensor.name)) is not None:
            layers[layer].append(tensor)
        elif tensor.name not in pinned:
            ends[kind_of(tensor.name)].append(tensor)
    experts = _number(header, "expert_count") if any(kind_of(each.name) == "experts" for each in header.tensors) else 0
    used = min(experts, _number(header, "expert_used_count"))
    # A model without an output matrix uses the embedding, of which llama.cpp loads a copy for the output's device.
    matrix = next((tensor for tensor in header.tensors if _is_embedding(tensor)), None)
    is_tied = not any(tensor.name == OUTPUT for tensor in header.tensors)
    output = [*ends["output"], *([matrix] if is_tied and matrix is not None else [])]
    windows = attention_windows(header, count)
    width, vocabulary = matrix.dimensions[:2] if matrix is not None else (0, 0)
    return ModelParts(
        embedding=_part(ends["embedding"]),
        output=_part(output),
        layers=tuple(_layer(layers[number], header, types, pinned, windows[number]) for number in range(count)),
        width=width,
        vocabulary=vocabulary,
        feed_width=max((_feed_width(tensor, used) for tensor in header.tensors), default=0),
        experts=experts,
        experts_used=used,
        pinned=_pinned((tensor for tensor in header.tensors if layer_of(tensor.name) is None), pinned),
    )


def _is_embedding(tensor: Tensor) -> bool:
    return tensor.name == EMBEDDING and len(tensor.dimensions) == 2


def _feed_width(tensor: Tensor, used: int) -> int:
    """Numbers that go into a layer's last feed-forward matrix for a token; of all experts that it uses."""
    kind = kind_of(tensor.name)
    if ".ffn_down" not in tensor.name or kind not in ("feed forward", "experts"):
        return 0
    return tensor.dimensions[0] * (used if kind == "experts" else 1)


def _pinned(tensors: Iterable[Tensor], pinned: Mapping[str, int]) -> tuple[PinnedPart, ...]:
    """The parts that rules put on devices, each kind and device apart."""
    groups: dict[tuple[int, bool], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.name in pinned:
            groups[pinned[tensor.name], kind_of(tensor.name) == "experts"].append(tensor)
    return tuple(
        PinnedPart(device=device, part=_part(group), routed=routed) for (device, routed), group in groups.items()
    )


def _layer(
    tensors: list[Tensor], header: ModelHeader, types: CacheTypes, pinned: Mapping[str, int], window: int
) -> Layer:
    kinds: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.name not in pinned:
            kinds[kind_of(tensor.name)].append(tensor)
    by_name = {tensor.name.split(".", 2)[2]: tensor for tensor in tensors}
    recurrent = any(name.startswith(("ssm_", "time_mix_", "shortconv")) for name in by_name)
    return Layer(
        attention=_part(kinds["attention"]),
        feed_forward=_part(kinds["feed forward"]),
        experts=_part(kinds["experts"]) if kinds["experts"] else NO_PART,
        kv_bytes=_cache_bytes(by_name, header, types),
        window=window,
        state_bytes=_state_bytes(header) if recurrent else 0,
        pinned=_pinned(tensors, pinned),
    )


def _cache_bytes(tensors: dict[str, Tensor], header: ModelHeader, types: CacheTypes) -> int:
    """Bytes of a token's keys and values, by the rows of the matrices that make them."""
    compressed = tensors.get("attn_kv_a_mqa.weight")
    if compressed is not None and "attn_kv_b.weight" in tensors:
        # A file of the older form keeps each head's keys and values.
        heads, key = _number(header, "attention.head_count"), _head(header)
        value = _number(header, "attention.value_length") or key
        return vector_bytes(heads * key, types.k) + vector_bytes(heads * value, types.v)
    if compressed is not None:
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
    sizes = list(map(tensor_bytes, tensors))
    return Part(bytes=sum(sizes), weights=matrices, largest=max(sizes, default=0))


def tensor_bytes(tensor: Tensor) -> int:
    """The tensor's size. Raises ModelError for a format that isn't known."""
    # The import takes a tenth of a second, which only a plan needs.
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)]
    except ValueError as error:
        raise ModelError(f"the tensor {tensor.name} has a format that isn't known: {tensor.ggml_type}") from error
    return -(-tensor.elements // int(block)) * int(size)
