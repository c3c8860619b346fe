"""Real models with recurrent layers: with the kernels, logits are llama.cpp's, and no layer is left to llama.cpp."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from kernel_tiers import CHOICES

#: Models, and the operations of their recurrent layers.
MODELS = {
    "tiny-qwen35": {"gated_delta_net", "ssm_conv", "concat"},
    "tiny-granite-hybrid": {"ssm_scan", "ssm_conv", "concat"},
    "tiny-mamba": {"ssm_scan", "ssm_conv", "concat"},
    "tiny-lfm2": {"ssm_conv", "concat"},
}
#: Of the largest logit. Weights are in single precision; attention sums values otherwise.
_TOLERANCE = 1e-3

_PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from tailrace.engine.kernels import loader
from tailrace.settings import Settings
folder, choice, *names = sys.argv[1:]
loader.choose(choice)
loader.load()
from tailrace.engine.load import load_llama
found, logits = {"status": loader.status()}, {}
for name in names:
    backend = load_llama(Path(folder, f"{name}.gguf"), Settings(ctx=512, parallel=4, threads=2, draft_tokens=0))
    rows = []
    def decode(tokens, positions, slots, outputs, n_decode=0):
        rows.append(np.array(backend.decode(tokens, positions, slots, outputs, n_decode)))
    before, places = loader.recurrent_counts(), loader.states_in_place()
    decode([3 + 11 * i % 200 for i in range(40)], list(range(40)), [0] * 40, [39])
    decode([7, 8, 9, 10, 11], list(range(5)), [1] * 5, [4])
    decode([90], [0], [2], [0])
    for step in range(3):  # all together
        decode([20 + step, 30 + step, 40 + step], [40 + step, 5 + step, 1 + step], [0, 1, 2], [0, 1, 2], 3)
    for step in range(2):  # one beside the others' states
        decode([60 + step], [8 + step], [1], [0], 1)
    decode([70, 71], [43, 4], [0, 2], [0, 1], 2)
    decode([1, 2, 3, 4, 50], [0, 1, 2, 3, 10], [3, 3, 3, 3, 1], [3, 4])  # a prompt beside a reply
    counts = {key: [now - then for now, then in zip(value, before[key])]
              for key, value in loader.recurrent_counts().items()}
    found[name] = {"counts": counts, "in place": loader.states_in_place() - places}
    logits[name] = np.concatenate(rows)
    backend.close()
np.savez(Path(folder, f"{choice}.npz"), **logits)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models, and with the logits that llama.cpp's own kernels compute."""
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        write_model(folder / f"{name}.gguf", name, SHAPES[name], byte_vocabulary(), "F32")
    run(folder, "off")
    return folder


def run(folder: Path, choice: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _PROGRAM, str(folder), choice, *MODELS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "off"])
def test_logits_are_those_of_llama_cpp(models: Path, choice: str) -> None:
    found = run(models, choice)
    assert found["status"] == "on"
    own, upstream = (np.load(models / f"{name}.npz") for name in (choice, "off"))
    for name, operations in MODELS.items():
        counts = found[name]["counts"]
        assert {key for key, (computed, _) in counts.items() if computed} == operations, counts
        assert not any(delegated for key, (_, delegated) in counts.items() if key in operations), counts
        difference = np.abs(own[name] - upstream[name]).max() / np.abs(upstream[name]).max()
        assert difference < _TOLERANCE, (name, difference)
        # The first pass has shown that there are such layers; all steps of one token follow it.
        if operations & {"gated_delta_net", "ssm_scan"}:
            assert found[name]["in place"] > 0
