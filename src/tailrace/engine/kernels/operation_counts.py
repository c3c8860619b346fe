"""How many operations this process has computed with the kernels, and how many llama.cpp has, by kind of operation."""

from __future__ import annotations

import ctypes

from tailrace.engine.kernels import loader
from tailrace.worker_protocol.status import OperationCounts

#: ``enum product_kind`` and ``enum fused_kind`` of the C code.
_PRODUCTS = ("dense products", "expert products")
_FUSED = ("gated expert products", "weighted sums of experts", "choices of experts")


def operation_counts() -> dict[str, OperationCounts]:
    """The counts of kinds of which there were any; empty where llama.cpp's own kernels are used."""
    kernels = loader.library()
    if kernels is None:
        return {}
    found: dict[str, OperationCounts] = {}
    repacked, in_file_order, every = ctypes.c_long(), ctypes.c_long(), ctypes.c_long()
    for kind, name in enumerate(_PRODUCTS):
        kernels.tailrace_kernels_product_counts(
            kind, ctypes.byref(repacked), ctypes.byref(in_file_order), ctypes.byref(every)
        )
        own = repacked.value + in_file_order.value
        found[name] = OperationCounts(repacked.value, in_file_order.value, max(0, every.value - own))
    for kind, name in enumerate(_FUSED):
        found[name] = OperationCounts(own=int(kernels.tailrace_kernels_fused_count(kind)))
    found["attention"] = OperationCounts(0, *loader.attention_counts())
    for name, (mine, theirs) in loader.recurrent_counts().items():
        found[name] = OperationCounts(0, mine, theirs)
    return {name: counts for name, counts in found.items() if counts != OperationCounts()}
