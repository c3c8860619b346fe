"""The weights that a token of a reply reads: with the measured bandwidth, they bound the tokens a second."""

from __future__ import annotations

from pathlib import Path

from tailrace.engine.backends.llama.kernel_assignment import is_experts, tensor_bytes
from tailrace.models.model_header import read_header


def touched_bytes(model: Path) -> int:
    """Bytes of all matrices that a token is multiplied with; of experts, those that a token is sent to."""
    header = read_header(model)

    def number(key: str) -> int:
        value = header.values.get(f"{header.facts.architecture}.{key}")
        return value if isinstance(value, int) else 0

    experts = number("expert_count")
    part = number("expert_used_count") / experts if experts else 1.0
    # Layers that only predict further tokens are the last ones.
    layers = number("block_count") - number("nextn_predict_layers")
    unused = tuple(f"blk.{layer}." for layer in range(layers, number("block_count")))
    has_output = any(tensor.name == "output.weight" for tensor in header.tensors)
    return sum(
        round(tensor_bytes(tensor) * (part if is_experts(tensor) else 1.0))
        for tensor in header.tensors
        if len(tensor.dimensions) > 1
        and not (unused and tensor.name.startswith(unused))
        and not (has_output and tensor.name == "token_embd.weight")
    )
