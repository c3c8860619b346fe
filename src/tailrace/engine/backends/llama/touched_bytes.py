"""Counts the weights that one token reads: with the memory's bandwidth, they bound the tokens a second of one stream.

Pure: it knows tensors and numbers of the model's metadata, and neither llama.cpp nor the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tailrace.engine.backends.llama.kernel_assignment import is_experts, tensor_bytes
from tailrace.models.model_header import Tensor


def touched_bytes(tensors: Iterable[Tensor], number: Callable[[str], int]) -> int:
    """Bytes of all matrices that a token is multiplied with; of experts, those that a token is sent to.

    ``number`` is the value of a key of the architecture's metadata, 0 where the model doesn't have it. Layers that only
    predict further tokens are left out.
    """
    matrices = [tensor for tensor in tensors if len(tensor.dimensions) > 1 and tensor.name.endswith(".weight")]
    experts = number("expert_count")
    part = number("expert_used_count") / experts if experts else 1.0
    layers, predicting = number("block_count"), number("nextn_predict_layers")
    unused = range(layers - predicting, layers) if predicting < layers else ()
    # The embeddings are also the output matrix where the model has no other one. Else they are only read by row.
    has_output = any(tensor.name == "output.weight" for tensor in matrices)
    left_out = (*(f"blk.{layer}." for layer in unused), *(("token_embd.weight",) if has_output else ()))
    return sum(
        round(tensor_bytes(tensor) * (part if is_experts(tensor) else 1.0))
        for tensor in matrices
        if not tensor.name.startswith(left_out)
    )
