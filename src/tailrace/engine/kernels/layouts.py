"""How a file lays out each format's blocks, as far as proofs make up weights of their own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

Bytes = npt.NDArray[np.uint8]


class Layout(NamedTuple):
    """Of one format."""

    bytes: int  #: of a block
    numbers: int  #: in a block
    halves: tuple[int, ...]  #: where 16-bit floats lie


LAYOUTS = {
    Kind.Q4_0: Layout(18, 32, (0,)),
    Kind.Q4_1: Layout(20, 32, (0, 2)),
    Kind.Q5_0: Layout(22, 32, (0,)),
    Kind.Q5_1: Layout(24, 32, (0, 2)),
    Kind.Q8_0: Layout(34, 32, (0,)),
    Kind.Q4_K: Layout(144, 256, (0, 2)),
    Kind.Q5_K: Layout(176, 256, (0, 2)),
    Kind.Q6_K: Layout(210, 256, (208,)),
}


def random_weights(kind: Kind, random: np.random.Generator, rows: int, numbers: int) -> Bytes:
    """So many rows of so many numbers, each row as its bytes."""
    layout = LAYOUTS[kind]
    blocks = rows * numbers // layout.numbers
    raw = random.integers(0, 256, (blocks, layout.bytes), np.uint8)
    for place in layout.halves:
        scale = random.uniform(-0.1, 0.1, blocks).astype(np.float16)
        raw[:, place : place + 2] = scale[:, None].view(np.uint8)
    return raw.reshape(rows, -1)
