"""Decides which kernels compute each weight tensor: tailrace's or llama.cpp's, on repacked weights or on the file's.

Pure: the caller asks llama.cpp. Where tailrace's kernels have repacked weights of their own, llama.cpp's repacking is
off for the model. Tensors that tailrace's kernels can't compute (other formats) get llama.cpp's repacked
buffer type by name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from tailrace.models.model_header import Tensor

OWN_REPACKED = "own kernels, repacked"
OWN = "own kernels, as in the file"
UPSTREAM_REPACKED = "llama.cpp, repacked"
UPSTREAM = "llama.cpp, as in the file"

#: Mixture of experts: each token is multiplied with some of the tensor's matrices.
_EXPERTS = re.compile(r"_(ch)?exps\.weight$")
#: Names of matrices that are only ever multiplied with. Other tensors may also be read by row, as embeddings are, and
#: a repacked buffer type doesn't allow that.
_DENSE = re.compile(
    r"^(output|blk\.\d+\.(attn_(q|k|v|qkv|output|gate|q_a|q_b|kv_a_mqa|kv_b)|ffn_(gate|up|down)(_shexp)?|"
    r"ssm_(in|out)|shortconv\.(in|out)_proj))\.weight$"
)
#: Rows of one group in tailrace's repacked weights.
_ROW_GROUP = 16
#: Numbers of a row that lie together in them: of 16-bit floats, a row may have any number.
_BLOCK = 32

#: llama.cpp's repacked buffer type for a tensor; the flag tells whether it has experts. None where there is none.
RepackBufferType = Callable[[Tensor, bool], int | None]


class OwnKernels(NamedTuple):
    """The formats that tailrace's kernels can compute, by ggml's numbers."""

    formats: frozenset[int]  #: as a file has them
    repacked: frozenset[int]  #: after repacking


class Assignment(NamedTuple):
    """A weight tensor and the kernels that compute its products."""

    tensor: Tensor
    kernels: str  #: one of the four names above
    buffer_type: int | None  #: llama.cpp's, where it has to be set by name


def assign_kernels(
    tensors: Iterable[Tensor], own: OwnKernels, repack_buffer_type: RepackBufferType, *, upstream_repacks: bool
) -> list[Assignment]:
    """An assignment for each weight tensor of a model that is multiplied with.

    ``upstream_repacks``: llama.cpp repacks all tensors that it can.
    """
    tensors = list(tensors)
    # The embeddings are also the output matrix where the model has no other one. Else they are only read by row.
    has_output = any(tensor.name == "output.weight" for tensor in tensors)
    return [
        _assign(tensor, own, repack_buffer_type, upstream_repacks=upstream_repacks)
        for tensor in tensors
        if len(tensor.dimensions) > 1
        and tensor.name.endswith(".weight")
        and not (has_output and tensor.name == "token_embd.weight")
    ]


def ends_in_repacked_buffers(tensors: Iterable[Tensor], repack_buffer_type: RepackBufferType) -> bool:
    """Whether llama.cpp ends the process where it chooses repacked buffer types itself.

    Latent attention has a matrix for each head. For AMX, llama.cpp repacks such a tensor, because it could be
    multiplied with contiguous activations, and then finds nothing that multiplies it with those of heads.
    """
    per_head = (tensor for tensor in tensors if len(tensor.dimensions) > 2 and not is_experts(tensor))
    return any(repack_buffer_type(tensor, False) is not None for tensor in per_head)


def repackable_part(tensors: Iterable[Tensor], own: OwnKernels) -> float:
    """The part of the matrices' bytes, 0 to 1, that tailrace's kernels can repack: dense ones and experts alike.

    A file has several formats, so its own file type doesn't say this.
    """
    matrices = [tensor for tensor in tensors if len(tensor.dimensions) > 1]
    repackable = sum(tensor_bytes(tensor) for tensor in matrices if _is_repackable(tensor, own))
    return repackable / max(1, sum(map(tensor_bytes, matrices)))


def _is_repackable(tensor: Tensor, own: OwnKernels) -> bool:
    known = len(tensor.dimensions) == 2 or is_experts(tensor)
    # The last group of a single matrix may have fewer rows.
    rows = tensor.dimensions[1]
    grouped = rows % _ROW_GROUP == 0 or (len(tensor.dimensions) == 2 and rows > _ROW_GROUP)
    return known and tensor.ggml_type in own.repacked and tensor.dimensions[0] % _BLOCK == 0 and grouped


def _assign(
    tensor: Tensor, own: OwnKernels, repack_buffer_type: RepackBufferType, *, upstream_repacks: bool
) -> Assignment:
    experts = is_experts(tensor)
    can_set_by_name = experts or _DENSE.match(tensor.name) is not None
    is_known_shape = experts or len(tensor.dimensions) == 2
    is_own = is_known_shape and tensor.ggml_type in own.formats
    if not upstream_repacks and is_known_shape and _is_repackable(tensor, own):
        return Assignment(tensor, OWN_REPACKED, None)
    if not upstream_repacks and is_own:
        return Assignment(tensor, OWN, None)
    found = repack_buffer_type(tensor, experts) if can_set_by_name or upstream_repacks else None
    if found is not None:
        return Assignment(tensor, UPSTREAM_REPACKED, None if upstream_repacks else found)
    return Assignment(tensor, OWN if is_own else UPSTREAM, None)


def is_experts(tensor: Tensor) -> bool:
    """Whether each token is multiplied with some of the tensor's matrices, and not with all."""
    return _EXPERTS.search(tensor.name) is not None


def buffer_type_overrides(types: Iterable[tuple[str, int | None]]) -> list[tuple[str, int]]:
    """Regular expressions of tensor names, each with a buffer type of llama.cpp. ``types`` has all of the model's
    tensors by name; None: llama.cpp chooses.

    llama.cpp compiles all of them for each tensor, so there are few: equal layers share one expression.
    """
    layers: dict[str, set[str]] = defaultdict(set)
    overridden: dict[tuple[str, int], set[str]] = defaultdict(set)
    for tensor, buffer_type in types:
        found = re.match(r"blk\.(\d+)\.(.*)", tensor)
        layer, name = (found[1], rf"\.{re.escape(found[2])}$") if found else ("", f"^{re.escape(tensor)}$")
        layers[name].add(layer)
        if buffer_type is not None:
            overridden[name, buffer_type].add(layer)
    patterns = []
    for (name, buffer_type), some in overridden.items():
        if name.startswith("^"):
            patterns.append((name, buffer_type))
        elif some == layers[name]:
            patterns.append((rf"^blk\.[0-9]+{name}", buffer_type))
        else:
            patterns.append((rf"^blk\.({'|'.join(sorted(some, key=int))}){name}", buffer_type))
    return patterns


def tensor_bytes(tensor: Tensor) -> int:
    """The tensor's size in the file; 0 for a format that the gguf library doesn't know yet."""
    try:
        block, size = map(int, GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)])
    except (KeyError, ValueError):
        return 0
    return tensor.elements // block * size


def summary(assignments: Iterable[Assignment]) -> dict[str, tuple[int, int]]:
    """The number of tensors and their bytes, by the kernels that compute them."""
    found: dict[str, tuple[int, int]] = {}
    for each in assignments:
        count, size = found.get(each.kernels, (0, 0))
        found[each.kernels] = count + 1, size + tensor_bytes(each.tensor)
    return found
