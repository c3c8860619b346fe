"""Models with random weights: realistic in speed and memory, meaningless as text.

    python -m benchmarks.synthetic NAME [--format FORMAT]

``shapes`` has a module for each architecture, with a table of the models' dimensions. A model takes the vocabulary of
another model's file, so any server loads it. Each file is written once into the cache folder, tensor by tensor.
"""

from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.write_model import folder, synthetic

__all__ = ["SHAPES", "folder", "synthetic"]
