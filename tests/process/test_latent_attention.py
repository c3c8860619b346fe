"""Latent attention: each value of the setting ``kernels`` loads such a model, and computes what llama.cpp does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from kernel_tiers import CHOICES

#: Each model in a process of its own, because a check of llama.cpp that fails ends the process.
_PROGRAM = """
import json, sys
from pathlib import Path
from tailrace.engine.load import load_llama
from tailrace.settings import Settings
backend = load_llama(Path(sys.argv[1]), Settings(ctx=256, parallel=2, threads=2, kernels=sys.argv[2]))
tokens = [1, *(3 + 37 * place % 200 for place in range(99))]
# A prompt of many tokens, and one token behind it.
rows = backend.decode(tokens[:-1], list(range(99)), [0] * 99, [98]).tolist()
rows += backend.decode(tokens[-1:], [99], [0], [0]).tolist()
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "latent.gguf"
    write_model(path, "latent", SHAPES["tiny-deepseek2"], byte_vocabulary(), "Q4_0")
    return path


def logits(model: Path, choice: str) -> np.ndarray:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(model), choice], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.array(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("choice", CHOICES[:-1])
def test_latent_attention_has_llama_cpps_results(model: Path, choice: str) -> None:
    for own, upstream in zip(logits(model, choice), logits(model, "off"), strict=True):
        assert np.corrcoef(own, upstream)[0, 1] > 0.98
