"""How much of a model our kernels multiply, by the formats of its weights. It loads and compiles nothing.

The table of formats is ``formats.h``. Its names are read from the source here, because a library may not be built yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Literal

from tailrace.engine.kernels.build import SOURCES, TIERS_OF_CHOICE, cpu_tiers

#: The format, and its encoding.
_ROW = re.compile(r"^    X\((\w+), +block_\w+, +\w+, +\w+, +(\w+),", re.MULTILINE)
#: Tiers in which 16-bit floats are ours (``is_repacked`` in ``formats.h``).
_FLOAT_TIERS = frozenset(("amx", "avx512-vnni"))
#: A part of the weights that counts as all: embeddings of a token are looked up, not multiplied.
_ALL = 0.99

Coverage = Literal["yes", "partly", "no"]


@cache
def format_names() -> frozenset[str]:
    """GGUF's names of the formats that the kernels compute in any tier."""
    return frozenset(name for name, _ in _rows())


@cache
def _rows() -> tuple[tuple[str, str], ...]:
    return tuple(_ROW.findall((SOURCES / "formats.h").read_text(encoding="utf-8")))


def kernel_coverage(matrices: Mapping[int, int], kernels: str) -> tuple[Coverage, float]:
    """Whether our kernels compute a model here, and the part of its weights that they do.

    ``matrices``: weights by ggml's number of their format. ``kernels``: the setting.
    """
    from gguf import GGMLQuantizationType

    tier = next((tier for tier in cpu_tiers() if tier in TIERS_OF_CHOICE.get(kernels, ())), None)
    if tier is None:
        return "no", 0.0
    computed = {name for name, encoding in _rows() if encoding != "FLOATS" or tier in _FLOAT_TIERS}
    names = {each.value: each.name for each in GGMLQuantizationType}
    own = sum(count for number, count in matrices.items() if names.get(number) in computed)
    part = own / max(1, sum(matrices.values()))
    return ("yes" if part >= _ALL else "partly" if own else "no"), part
