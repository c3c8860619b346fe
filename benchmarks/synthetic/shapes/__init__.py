"""A module for each architecture; ``SHAPES`` has the models of all."""

from benchmarks.synthetic.shapes import deepseek2, gemma, glm4moe, gpt_oss, lfm2, llama, mamba, mamba2, qwen3moe, qwen35
from benchmarks.synthetic.shapes.shape import Shape

#: Models by name. "-small" is for short measurements, "tiny-" for tests.
SHAPES: dict[str, Shape] = {
    **llama.SHAPES,
    **qwen3moe.SHAPES,
    **qwen35.SHAPES,
    **mamba2.SHAPES,
    **mamba.SHAPES,
    **gpt_oss.SHAPES,
    **deepseek2.SHAPES,
    **gemma.SHAPES,
    **glm4moe.SHAPES,
    **lfm2.SHAPES,
}

__all__ = ["SHAPES", "Shape"]
