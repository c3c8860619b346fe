"""Decoding as a share of the memory's bandwidth: tokens a second × bytes that a token reads ÷ bytes a second of memory.

A neighbour on the machine takes part of the bandwidth, so it is measured beside each rate, in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tailrace.engine.backends.llama.touched_bytes import touched_bytes
from tailrace.machine.bandwidth import measure_bandwidth
from tailrace.machine.topology import read_topology
from tailrace.models.model_header import read_header


def model_touched_bytes(model: Path) -> int:
    """Bytes of the weights that a token of a reply reads."""
    header = read_header(model)

    def number(key: str) -> int:
        value = header.values.get(f"{header.facts.architecture}.{key}")
        return value if isinstance(value, int) else 0

    return touched_bytes(header.tensors, number)


def memory_bandwidth() -> float:
    """Bytes a second that all nodes' memory gives to as many threads as read it fastest."""
    return sum(each.best for each in measure_bandwidth(read_topology()))


def bandwidth_shares(model: Path, rates: Sequence[float], bandwidths: Sequence[float]) -> list[float]:
    """For each turn, the share of the bandwidth that one stream has with so many tokens a second."""
    touched = model_touched_bytes(model)
    return [rate * touched / bandwidth for rate, bandwidth in zip(rates, bandwidths, strict=True)]
