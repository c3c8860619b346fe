"""Models of other families on a worker compute what they compute in one process; texts are embedded beside replies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from architectures import tiny_reranker
from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from placed_backend import load_placed
from tailrace.engine.backends.create_llama import create_llama
from tailrace.settings import Settings
from worker_process import WorkerProcess

Workers = tuple[WorkerProcess, WorkerProcess]

_TOKENS = [3 + 7 * place % 200 for place in range(40)]


@pytest.mark.parametrize(
    "shape",
    ["tiny-deepseek2", "tiny-gpt-oss", "tiny-gemma3", "tiny-qwen35moe", "tiny-falcon-h1", "tiny-mamba2"],
)
def test_a_family_has_its_numbers_on_a_worker(workers: Workers, tmp_path: Path, shape: str) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, shape, SHAPES[shape], byte_vocabulary(), "F32")
    one = create_llama(path, Settings(threads=1, ctx=512, parallel=2))
    placed = load_placed([workers[0].endpoint], model=path, local=False, ctx=512, parallel=2)
    try:
        assert placed.placement is not None
        assert placed.placement.differences == ()
        count = len(_TOKENS)
        found, expected = (
            each.decode(_TOKENS, list(range(count)), [0] * count, [count - 1])[0].copy() for each in (placed, one)
        )
        # Formats of activations differ, and choose another expert now and then.
        assert np.corrcoef(found, expected)[0, 1] > 0.95
    finally:
        placed.close()
        one.close()


def test_texts_are_embedded_while_a_reply_goes_on(workers: Workers) -> None:
    """Reading a longer text needs another context, and a worker that frees the old one forgets the reply's graph."""
    placed = load_placed([workers[0].endpoint], local=False)
    try:
        context = placed.embedding_context
        assert context is not None
        at = 0
        vectors = []
        for length in (16, 600, 900):
            context.reserve(length)
            for _ in range(3):
                placed.decode([5], [at], [0], [0])
                at += 1
            vectors.append(context.embed([5, 6, 7], [0, 1, 2], [0, 0, 0]).copy())
            context.clear(0)
            for _ in range(3):
                placed.decode([5], [at], [0], [0])
                at += 1
        assert all(np.allclose(each, vectors[0], atol=0.05) for each in vectors)
    finally:
        placed.close()


def test_a_reranker_scores_on_a_worker(workers: Workers, tmp_path: Path) -> None:
    path = tiny_reranker(tmp_path)
    one = create_llama(path, Settings(threads=1, ctx=512, parallel=2))
    placed = load_placed([workers[0].endpoint], model=path, local=False, ctx=512, parallel=2)
    scores = []
    try:
        for each in (placed, one):
            context = each.embedding_context
            assert context is not None
            context.reserve(64)
            scores.append(context.rank(_TOKENS, list(range(len(_TOKENS))), [0] * len(_TOKENS)).copy())
        assert np.allclose(scores[0], scores[1], atol=0.02)
    finally:
        placed.close()
        one.close()
