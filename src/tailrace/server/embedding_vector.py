"""Embedding vectors as the engine sends them. Without numpy: its import alone makes threads, before the HTTP process is
bound to its CPUs.
"""

from __future__ import annotations

import math
import sys
from array import array

from tailrace.protocol import Embedded


def vector_of(answer: Embedded, dimensions: int | None) -> array[float]:
    """The vector's first ``dimensions`` numbers (float32), brought to length 1 again; all of them for None."""
    vector = array("f", answer.vector)
    if sys.byteorder == "big":
        vector.byteswap()
    if dimensions is None or dimensions >= len(vector):
        return vector
    head = vector[:dimensions]
    length = math.hypot(*head)
    return array("f", (number / length for number in head)) if length else head


def little_endian(vector: array[float]) -> bytes:
    """The numbers as clients decode them."""
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return vector.tobytes()
