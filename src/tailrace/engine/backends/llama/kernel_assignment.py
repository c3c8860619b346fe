"""What each of a model's products is computed by: our kernels or llama.cpp's, in another order or as the file has it.

Pure: llama.cpp is asked by the caller. Where our kernels have their own order, llama.cpp's is switched off for the
model; the tensors that ours can't compute (experts, formats without a kernel) get llama.cpp's order by name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from tailrace.models.model_header import Tensor

OWN_REPACKED = "own kernels, repacked"
OWN = "own kernels, as in the file"
UPSTREAM_REPACKED = "llama.cpp, repacked"
UPSTREAM = "llama.cpp, as in the file"

#: Weights of which each token is multiplied with some matrices.
_EXPERTS = re.compile(r"_exps\.weight$")
#: Names of matrices that are multiplied with and never looked rows up in: llama.cpp's order may be asked for.
_DENSE = re.compile(
    r"^(output|blk\.\d+\.(attn_(q|k|v|qkv|output|gate|q_a|q_b|kv_a_mqa|kv_b)|ffn_(gate|up|down)(_shexp)?|"
    r"ssm_(in|out)|shortconv\.(in|out)_proj))\.weight$"
)
#: A panel of our order.
_ROWS = 16

#: llama.cpp's order (a buffer type) for a tensor, of experts or not; None where it has none.
Order = Callable[[Tensor, bool], int | None]


class Kernels(NamedTuple):
    """What our kernels can compute: formats as a file has them, and those that they have an order for."""

    formats: frozenset[int]
    repacked: frozenset[int]


class Placed(NamedTuple):
    """A tensor, and what computes its products."""

    tensor: Tensor
    way: str
    order: int | None  #: llama.cpp's, where it has to be asked for by name


def place(tensors: Iterable[Tensor], kernels: Kernels, order: Order, *, upstream: bool) -> list[Placed]:
    """Every product of a model. ``upstream``: llama.cpp's orders are active for all tensors that have one."""
    tensors = list(tensors)
    # Without a matrix of its own for the output the table of embeddings is multiplied with; else it is looked up in.
    embeddings = any(tensor.name == "output.weight" for tensor in tensors)
    return [
        _placed(tensor, kernels, order, upstream=upstream)
        for tensor in tensors
        if len(tensor.sizes) > 1
        and tensor.name.endswith(".weight")
        and not (embeddings and tensor.name == "token_embd.weight")
    ]


def _placed(tensor: Tensor, kernels: Kernels, order: Order, *, upstream: bool) -> Placed:
    experts = _EXPERTS.search(tensor.name) is not None
    by_name = experts or _DENSE.match(tensor.name) is not None
    own = not experts and len(tensor.sizes) == 2 and tensor.kind in kernels.formats
    if not upstream and own:
        repacked = tensor.kind in kernels.repacked and tensor.sizes[1] % _ROWS == 0
        return Placed(tensor, OWN_REPACKED if repacked else OWN, None)
    found = order(tensor, experts) if by_name or upstream else None
    if found is not None:
        return Placed(tensor, UPSTREAM_REPACKED, None if upstream else found)
    return Placed(tensor, OWN if own else UPSTREAM, None)


def overrides(placed: Sequence[Placed]) -> list[tuple[str, int]]:
    """Regular expressions of tensors' names, each with llama.cpp's order for them.

    Few, because llama.cpp compiles all of them for each tensor: layers that are alike share one.
    """
    layers: dict[str, set[str]] = defaultdict(set)
    chosen: dict[tuple[str, int], set[str]] = defaultdict(set)
    for each in placed:
        found = re.match(r"blk\.(\d+)\.(.*)", each.tensor.name)
        layer, name = (found[1], rf"\.{re.escape(found[2])}$") if found else ("", f"^{re.escape(each.tensor.name)}$")
        layers[name].add(layer)
        if each.order is not None:
            chosen[name, each.order].add(layer)
    patterns = []
    for (name, order), some in chosen.items():
        if name.startswith("^"):
            patterns.append((name, order))
        elif some == layers[name]:
            patterns.append((rf"^blk\.[0-9]+{name}", order))
        else:
            patterns.append((rf"^blk\.({'|'.join(sorted(some, key=int))}){name}", order))
    return patterns


def bytes_of(tensor: Tensor) -> int:
    """Its size in the file."""
    try:
        block, size = map(int, GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)])
    except (KeyError, ValueError):
        return 0  # A format that is newer than the gguf library.
    return tensor.weights // block * size


def summary(placed: Iterable[Placed]) -> dict[str, tuple[int, int]]:
    """How many tensors, and of how many bytes, each way computes; the ways that there are."""
    found: dict[str, tuple[int, int]] = {}
    for each in placed:
        count, size = found.get(each.way, (0, 0))
        found[each.way] = count + 1, size + bytes_of(each.tensor)
    return found
