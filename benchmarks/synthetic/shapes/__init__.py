"""A module for each architecture; ``SHAPES`` has the models of all."""

from benchmarks.synthetic.shapes import llama, qwen3moe
from benchmarks.synthetic.shapes.shape import Shape

#: Models by name. "-small" is for short measurements, "tiny-" for tests.
SHAPES: dict[str, Shape] = {**llama.SHAPES, **qwen3moe.SHAPES}

__all__ = ["SHAPES", "Shape"]
