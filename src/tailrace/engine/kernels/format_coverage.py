"""How much of a model our kernels multiply, by the formats of its weights. It loads and compiles nothing.

The table of formats is ``formats.h``. Its names are read from the source here, because a library may not be built yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Literal

from tailrace.engine.kernels.build import SOURCES, TIERS_OF_CHOICE, cpu_tiers

_ROW = re.compile(r"^    X\((\w+), +block_\w+, ", re.MULTILINE)
#: A part of the weights that counts as all: embeddings of a token are looked up, not multiplied.
_ALL = 0.99

Coverage = Literal["yes", "partly", "no"]


@cache
def format_names() -> frozenset[str]:
    """GGUF's names of the formats that the kernels compute, on any CPU."""
    return frozenset(_ROW.findall((SOURCES / "formats.h").read_text(encoding="utf-8")))


def kernel_coverage(matrices: Mapping[int, int], kernels: str) -> tuple[Coverage, float]:
    """Whether our kernels compute a model here, and the part of its weights that they do.

    ``matrices``: weights by ggml's number of their format. ``kernels``: the setting.
    """
    from gguf import GGMLQuantizationType

    if not set(cpu_tiers()) & set(TIERS_OF_CHOICE.get(kernels, ())):
        return "no", 0.0
    names = {each.value: each.name for each in GGMLQuantizationType}
    own = sum(count for number, count in matrices.items() if names.get(number) in format_names())
    part = own / max(1, sum(matrices.values()))
    return ("yes" if part >= _ALL else "partly" if own else "no"), part
