"""Mixtures of experts: own kernels compute the dense tensors and the experts, repacked."""

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
from tailrace.engine.backends.llama.kernel_assignment import OWN, OWN_REPACKED, UPSTREAM

_PROGRAM = """
import json, sys
from tailrace.engine.kernels import loader
from pathlib import Path
from tailrace.engine.load import load_llama
from tailrace.engine.backends.llama import memory_budget
from tailrace.engine.backends.llama.kernel_assignment import tensor_bytes
from tailrace.settings import Settings
if sys.argv[3:]:
    memory_budget._WEIGHTS_PART = float(sys.argv[3])
backend = load_llama(Path(sys.argv[1]), Settings(kernels=sys.argv[2], threads=2, ctx=512, parallel=2))
tokens = [3 + 7 * place % 200 for place in range(48)]
rows = backend.decode(tokens, list(range(48)), [0] * 48, [5, 47]).tolist()
rows += backend.decode([9, 11], [48, 0], [0, 1], [0, 1], 2).tolist()
kernels = loader.library()
fused = [kernels.tailrace_kernels_fused_count(kind) for kind in range(3)] if kernels else None
backend.reset()
alone = backend.decode([11], [0], [0], [0]).tolist()
kernels = {each.tensor.name: each.kernels for each in backend.assignments}
sizes = {each.tensor.name: tensor_bytes(each.tensor) for each in backend.assignments}
found = {"rows": rows, "kernels": kernels, "bytes": sizes, "fused": fused, "alone": alone}
print(json.dumps({**found, "repacked": backend.repacked_bytes}))
"""


def run(path: Path, choice: str, *more: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path), choice, *more], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def least_correlation(choice: str) -> float:
    """Tiles don't round activations to 8 bits as llama.cpp does, so the router may choose another expert where two are
    close.
    """
    return 0.95 if choice == "on" and "amx" in TIERS else 0.98


@pytest.mark.parametrize("choice", CHOICES[:-1])
@pytest.mark.parametrize(("dense", "experts"), [("Q4_0", "Q4_0"), ("Q4_K", "Q4_K"), ("Q8_0", "Q4_K"), ("Q4_0", "Q6_K")])
def test_a_mixture_of_experts_has_llama_cpps_results(tmp_path: Path, dense: str, experts: str, choice: str) -> None:
    path = tiny_experts(tmp_path, dense=dense, experts=experts)
    own, log = run(path, choice)
    upstream, _ = run(path, "off")
    kernels: dict[str, str] = own["kernels"]
    routers = {name for name in kernels if "_inp" in name}
    assert {kernels[name] for name in routers} == {UPSTREAM}
    if TIERS:
        assert {found for name, found in kernels.items() if name not in routers} == {OWN_REPACKED}
        # Each expert is repacked while the model is loaded, chosen or not.
        assert own["repacked"] >= sum(own["bytes"][name] for name in kernels if name not in routers)
        # Two layers, in the prompt's pass and in that of two tokens; while weights are repacked all are computed alone.
        assert min(own["fused"]) >= 4
        assert own["alone"] == own["rows"][3:], "a token has the same results beside another one and alone"
    assert "products computed by" in log
    assert "should be repacked" not in log
    for one, other in zip(np.array(own["rows"]), np.array(upstream["rows"]), strict=True):
        assert np.corrcoef(one, other)[0, 1] > least_correlation(choice)


@pytest.mark.skipif(not TIERS, reason="this CPU can't run the kernels: llama.cpp computes all")
@pytest.mark.parametrize("experts", ["Q4_0", "Q6_K"])
def test_experts_stay_as_the_file_has_them_where_memory_is_short(tmp_path: Path, experts: str) -> None:
    path = tiny_experts(tmp_path, dense="Q4_0", experts=experts)
    own, _ = run(path, "on", "0")
    upstream, _ = run(path, "off")
    assert own["repacked"] == 0
    assert {kernels for name, kernels in own["kernels"].items() if "_inp" not in name} == {OWN}
    for one, other in zip(np.array(own["rows"]), np.array(upstream["rows"]), strict=True):
        assert np.corrcoef(one, other)[0, 1] > least_correlation("on")
    assert own["alone"] == own["rows"][3:]
