"""Matrix kernels of our own in llama.cpp's place, on the real model: who computes, and that numbers stay the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from kernel_tiers import CHOICES, TIERS

#: Logits of a prompt's last token and of two tokens after it, alone and in a batch of five sequences.
_PROGRAM = """
import ctypes, json, sys
import numpy as np
from tailrace.engine.sampling import logits_ops
from tailrace.engine.load import load_llama
from tailrace.engine.kernels import loader
from tailrace.models.model_reference import locate_model
from tailrace.engine.kernels.proofs.row_maxima import row_maxima_of
from tailrace.settings import Settings
row_maxima, are_right = [], []
def decode(*batch):
    logits = backend.decode(*batch)
    address = row_maxima[-1] and row_maxima[-1].at(logits.ctypes.data, len(logits))
    expected = row_maxima_of(logits)
    found = address and np.ctypeslib.as_array((ctypes.c_float * expected.size).from_address(address))
    are_right.append(address and bool(np.array_equal(found, expected.ravel())))
    return logits.tolist()
backend = load_llama(locate_model("smollm2-135m").path, Settings(kernels=sys.argv[1], threads=2, ctx=512, parallel=8))
from tailrace.engine.backends.llama import forward_pass as module
module.set_row_maxima = row_maxima.append
prompt = backend.tokenize("The capital of France is Paris. The capital of Italy is")
rows = decode(prompt, list(range(len(prompt))), [0] * len(prompt), [len(prompt) - 1])
rows += decode([260], [len(prompt)], [0], [0])
backend.reset()
rows += decode(prompt[:5], [0] * 5, list(range(5)), list(range(5)))
print(json.dumps({"state": loader.status(), "sampling": logits_ops.status(), "rows": rows, "row_maxima": are_right,
                  "repacked": backend.repacked_bytes}))
"""
CAN = bool(TIERS)


def run(choice: str, **environment: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, choice],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("choice", CHOICES[:-1])
def test_logits_are_the_same_but_for_rounding(choice: str) -> None:
    # Activations are rounded to 8 bits in every layer, which makes more of a difference in an attention's last bits:
    # llama.cpp with and without flash attention differs by 0.15 in the mean, and so do ours from either.
    ours, theirs = np.array(run(choice)[0]["rows"]), np.array(run("off")[0]["rows"])
    assert np.abs(ours - theirs).mean() < 0.3
    assert (ours.argmax(1) == theirs.argmax(1)).all()
    for one, other in zip(ours, theirs, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.995


@pytest.mark.parametrize("choice", CHOICES)
def test_row_maxima_come_from_the_output_kernel(choice: str) -> None:
    expected = True if choice != "off" and CAN else None
    assert run(choice)[0]["row_maxima"] == [expected] * 3


@pytest.mark.parametrize("choice", CHOICES)
def test_the_kernels_setting_decides_which_library_computes(choice: str) -> None:
    found, bindings = run(choice, LD_DEBUG="bindings", LD_BIND_NOW="1")
    named = ("`llamafile_sgemm'", "`ggml_compute_forward_flash_attn_ext'")
    used = [line for line in bindings.splitlines() if any(n in line for n in named) and "libggml-cpu" in line]
    own = [line for line in used if "/tailrace/kernels/" in line]
    if choice == "off":
        assert found["state"] == found["sampling"] == "off"
        assert found["repacked"] == 0
        assert not own
    elif CAN:
        assert found["state"] == found["sampling"] == "on"
        assert found["repacked"] > 90_000_000  # All of its products' weights.
        assert own
    else:
        assert "no AVX-512" in found["state"]
        assert not own


_TOGETHER = """
import json, sys
import numpy as np
from tailrace.engine.load import load_llama
from tailrace.models.model_reference import locate_model
from tailrace.settings import Settings
backend = load_llama(locate_model("smollm2-135m").path, Settings(threads=2, ctx=1024, parallel=2, kernels=sys.argv[2]))
of = sys.argv[1]
text = "The lighthouse was built in 1874 by two brothers from Lisbon, who had never seen the northern sea before. "
tokens = backend.tokenize(text * 10)[:240]
def read(together):
    backend.reset()
    backend.decode(tokens[:224], list(range(224)), [0] * 224, [])
    rows = []
    for at in range(224, 240, together):
        batch = tokens[at : at + together], list(range(at, at + together)), [0] * together, list(range(together))
        rows.append(backend.decode(*batch, together if of == "reply" else 0).copy())
    return np.concatenate(rows)
print(json.dumps(float(max(np.abs(read(1) - read(count)).max() for count in (2, 8, 16)))))
"""


@pytest.mark.skipif(not CAN, reason="llama.cpp's own products of one column differ from those of several")
@pytest.mark.parametrize("of", ["reply", "prompt"])
@pytest.mark.parametrize("choice", CHOICES[:-1])
def test_tokens_have_the_logits_that_they_have_one_after_the_other(choice: str, of: str) -> None:
    """To the last bit. So a reply is the same with drafts and without, and after a short prompt from a cache."""
    done = subprocess.run([sys.executable, "-c", _TOGETHER, of, choice], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == 0.0
