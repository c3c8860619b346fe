"""Models of benchmarks.synthetic: each architecture and each format loads, and computes numbers of a model's size."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks.synthetic.block_formats import FORMATS, matrix_format, random_rows
from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from tailrace.engine.load import load_llama
from tailrace.settings import Settings


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith("tiny-") and "vocabulary" not in name])
def test_each_architecture_is_a_model_for_llama_cpp(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.gguf"
    write_model(path, name, SHAPES[name], byte_vocabulary())
    backend = load_llama(path, Settings(ctx=256, parallel=2, threads=1))
    try:
        assert backend.info.architecture == SHAPES[name].architecture
        tokens = [3 + 7 * place % 200 for place in range(70)]
        rows = np.array(backend.decode(tokens, list(range(70)), [0] * 70, [10, 69]))
    finally:
        backend.close()
    assert np.isfinite(rows).all()
    # Weights too small or too large would give logits that are all alike.
    assert (rows.std(axis=1) > 0.3).all()
    assert np.abs(rows).max() < 40
    assert not np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize("weight_format", FORMATS)
def test_weights_of_each_format_have_the_size_that_keeps_numbers_as_they_are(weight_format: str) -> None:
    kind = matrix_format(weight_format, "ffn_up.weight", 512)
    assert kind.name in weight_format
    raw = random_rows(kind, np.random.default_rng(1), 64, 512)
    weights = gguf.quants.dequantize(raw, kind).reshape(64, 512)
    # MXFP4's scales are powers of two.
    assert 0.7 < weights.std() * 512**0.5 < 1.45
    assert abs(weights.mean()) < 0.1 * weights.std()


def test_rows_that_blocks_do_not_divide_have_another_format() -> None:
    assert matrix_format("Q4_K", "ffn_up.weight", 2880).name == "Q8_0"
    assert matrix_format("Q4_0", "ffn_up.weight", 40).name == "F16"
    assert matrix_format("Q4_K_M", "blk.0.ffn_down.weight", 512).name == "Q6_K"
