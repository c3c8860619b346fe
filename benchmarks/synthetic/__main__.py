"""``python -m benchmarks.synthetic``: writes a model and prints where it is."""

from __future__ import annotations

import argparse

from benchmarks.synthetic.block_formats import FORMATS
from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.write_model import synthetic
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic", description="Write a model of random weights."
    )
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("--format", default="", choices=FORMATS, help="of the matrices; default: the shape's own")
    parser.add_argument("--vocabulary", default=STARTER_MODEL, help="a GGUF file or a name in the store")
    options = parser.parse_args()
    print(synthetic(options.name, locate_model(options.vocabulary).path, weight_format=options.format))


if __name__ == "__main__":
    main()
