"""The engine's thread pools with the real model: the CPUs that the kernel reports, and unchanged tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tailrace.models.model_reference import locate_model

#: Decodes greedily with the pools on its standard input. Prints the tokens, and its threads' CPUs after each step.
_CHILD = """
import json, os, sys
from pathlib import Path
import msgspec
from tailrace.engine.kv_cache.layout import Layout
from tailrace.engine.backends.llama import LlamaBackend, LlamaOptions
from tailrace.machine.applied_placement import read_applied_placement
from tailrace.machine.plan import PoolPlan

path, pools = Path(sys.argv[1]), json.loads(sys.stdin.read())
decode, prefill = (msgspec.convert(pools[name], PoolPlan) for name in ("decode", "prefill"))
backend = LlamaBackend(path, LlamaOptions(
    decode_pool=decode, prefill_pool=prefill, ctx=512, parallel=2, kv_tokens=8192, batch=64, gpu_layers=0))
threads = {}

def look(name):
    threads[name] = {thread: sorted(cpus) for thread, cpus in read_applied_placement().threads.items()}

def run(slot, tokens, start):
    logits = backend.decode(tokens, list(range(start, start + len(tokens))), [slot] * len(tokens), [len(tokens) - 1])
    return int(logits[0].argmax())

prompt = backend.tokenize("The capital of France is")
chosen = [run(0, prompt, 0)]
look("prefill")
for number in range(8):
    if number == 4:
        backend.kv_relayout(Layout(2, 512), [])
    chosen.append(run(0, [chosen[-1]], len(prompt) + number))
    look("grown" if number >= 4 else "decode")
run(1, prompt, 0)
look("prefill again")
if len(decode.cpus) > 1:
    backend.share_cores(1, 2)
    chosen.append(run(0, [chosen[-1]], len(prompt) + 8))
    threads["part"] = {"caller": sorted(os.sched_getaffinity(0))}
    backend.share_cores(0, 1)
    chosen.append(run(0, [chosen[-1]], len(prompt) + 9))
    look("whole")
backend.close()
print(json.dumps({"tokens": chosen, "threads": threads}))
"""


def decoded(decode: dict[str, object], prefill: dict[str, object]) -> dict[str, dict[str, dict[str, list[int]]]]:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(locate_model("smollm2-135m").path)],
        input=json.dumps({"decode": decode, "prefill": prefill}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, dict[str, list[int]]]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def cpus() -> list[int]:
    """Two CPUs, or the one that there is twice."""
    usable = sorted(os.sched_getaffinity(0))
    return [usable[0], usable[-1]]


def test_pools_run_on_their_planned_cpus_also_after_the_cache_has_grown(cpus: list[int]) -> None:
    """Two threads decode on one CPU, and two others prefill on the other CPU: an unusual plan, but easy to observe."""
    plain = decoded({"threads": 2}, {"threads": 2})
    apart = decoded({"threads": 2, "cpus": cpus[:1]}, {"threads": 2, "cpus": cpus[1:]})
    assert apart["tokens"] == plain["tokens"]
    threads = apart["threads"]
    for step, cpu in (("prefill", cpus[1]), ("decode", cpus[0]), ("grown", cpus[0]), ("prefill again", cpus[1])):
        assert [cpu] in threads[step].values()
    # The thread that runs the loop takes part in both.
    loop = min(threads["decode"], key=int)
    assert [threads[step][loop] for step in threads] == [[cpus[1]], [cpus[0]], [cpus[0]], [cpus[1]]]
    # Threads are made once: neither a step nor a larger cache makes others.
    assert threads["grown"].keys() == threads["decode"].keys()


def test_strict_threads_have_a_cpu_each(cpus: list[int]) -> None:
    if cpus[0] == cpus[1]:
        pool: dict[str, object] = {"threads": 1, "cpus": cpus[:1], "strict": True}
    else:
        pool = {"threads": 2, "cpus": cpus, "strict": True}
    found = decoded(pool, pool)["threads"]["decode"].values()
    bound = sorted(where for where in found if len(where) == 1)
    assert len(set(map(tuple, bound))) == len(set(cpus))


def test_an_engine_that_divides_the_cores_keeps_to_its_part_and_gets_the_whole_back(cpus: list[int]) -> None:
    if cpus[0] == cpus[1]:
        pytest.skip("one CPU can't be divided")
    pool: dict[str, object] = {"threads": 2, "cpus": cpus, "strict": True}
    found = decoded(pool, pool)["threads"]
    assert found["part"] == {"caller": [cpus[1]]}
    assert {cpu for where in found["whole"].values() if len(where) == 1 for cpu in where} == set(cpus)


@pytest.mark.parametrize("wrong", [{"threads": 1, "cpus": [600]}, {"threads": 2, "cpus": [0], "strict": True}])
def test_impossible_pools_are_refused(wrong: dict[str, object]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(locate_model("smollm2-135m").path)],
        input=json.dumps({"decode": wrong, "prefill": wrong}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ConfigurationError" in done.stderr
