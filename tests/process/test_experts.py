"""Mixtures of experts: our kernels take the dense products, and experts keep llama.cpp's order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from architectures import tiny_experts
from kernel_tiers import CHOICES, TIERS
from tailrace.engine.backends.llama.kernel_assignment import OWN_REPACKED, UPSTREAM, UPSTREAM_REPACKED

_PROGRAM = """
import json, sys
from pathlib import Path
from tailrace.engine.load import load_llama
from tailrace.settings import Settings
backend = load_llama(Path(sys.argv[1]), Settings(kernels=sys.argv[2], threads=2, ctx=512, parallel=2))
tokens = [3 + 7 * place % 200 for place in range(48)]
rows = backend.decode(tokens, list(range(48)), [0] * 48, [5, 47]).tolist()
rows += backend.decode([9, 11], [48, 0], [0, 1], [0, 1], 2).tolist()
ways = {each.tensor.name: each.kernels for each in backend.assignments}
print(json.dumps({"rows": rows, "ways": ways, "copied": backend.repacked_bytes}))
"""


def run(path: Path, choice: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path), choice], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.parametrize("choice", CHOICES[:-1])
@pytest.mark.parametrize(("dense", "experts"), [("Q4_0", "Q4_0"), ("Q4_K", "Q4_K"), ("Q8_0", "Q4_K"), ("Q4_0", "Q6_K")])
def test_a_mixture_of_experts_is_computed_by_both(tmp_path: Path, dense: str, experts: str, choice: str) -> None:
    path = tiny_experts(tmp_path, dense=dense, experts=experts)
    ours, log = run(path, choice)
    theirs, _ = run(path, "off")
    ways: dict[str, str] = ours["ways"]
    expected = {name: way for name, way in theirs["ways"].items() if "_exps" in name or "_inp" in name}
    # llama.cpp decides which formats of experts it reorders, and does so beside our kernels as without them.
    assert {name: ways[name] for name in expected} == expected
    assert set(expected.values()) <= {UPSTREAM, UPSTREAM_REPACKED}
    if TIERS:
        assert {way for name, way in ways.items() if name not in expected} == {OWN_REPACKED}
        assert ours["copied"] > 0
        if experts in ("Q4_0", "Q4_K"):
            assert ways["blk.1.ffn_up_exps.weight"] == UPSTREAM_REPACKED
    assert "products computed by" in log
    assert "should be repacked" not in log
    for one, other in zip(np.array(ours["rows"]), np.array(theirs["rows"]), strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.98
