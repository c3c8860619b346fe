"""Binding, read back from this machine's kernel, in processes of their own: it can't be undone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

#: Prints what is in force of the replica plan on its standard input, before and after binding.
_CHILD = """
import json, os, sys, threading
import msgspec
from tailrace.errors import ConfigurationError
from tailrace.machine.binding import bind_cpus, bind_memory, memory_nodes
from tailrace.machine.applied_placement import placement_differences, read_applied_placement
from tailrace.machine.plan import ReplicaPlan

plan = msgspec.json.decode(sys.stdin.buffer.read(), type=ReplicaPlan)
before = sorted(memory_nodes())
try:
    bind_cpus(plan.cpus)
    bind_memory(plan)
except ConfigurationError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit()
held = bytearray(os.urandom(20_000_000))
ready, done = threading.Event(), threading.Event()
nodes = []
def work():
    nodes.extend(memory_nodes())
    ready.set()
    done.wait()
thread = threading.Thread(target=work)
thread.start()
ready.wait()
found = read_applied_placement()
done.set()
print(json.dumps({
    "before": before, "after": sorted(memory_nodes()), "in_thread": nodes,
    "threads": [sorted(cpus) for cpus in found.threads.values()],
    "memory": {str(node): size for node, size in found.memory.items()},
    "placement_differences": placement_differences(plan, found),
}))
"""


def bound(**plan: object) -> dict[str, object]:
    pool = {"threads": 1, "cpus": plan.pop("cpus", [])}
    orders = json.dumps({"node": None, "decode": pool, "prefill": pool, **plan})
    done = subprocess.run([sys.executable, "-c", _CHILD], input=orders, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def usable() -> list[int]:

    return sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("number", [0, -1])
def test_a_thread_and_the_threads_it_starts_are_bound(number: int) -> None:
    cpu = usable()[number]
    found = bound(cpus=[cpu])
    assert found["threads"] == [[cpu], [cpu]]
    assert found["after"] == [], "memory is left to the kernel"
    assert found["placement_differences"] == []


def test_memory_of_a_thread_and_of_threads_it_starts_is_bound() -> None:
    found = bound(node=0)
    assert (found["before"], found["after"], found["in_thread"]) == ([], [0], [0])
    memory = found["memory"]
    assert isinstance(memory, dict)
    assert memory["0"] > 20_000_000
    assert found["placement_differences"] == []


def test_memory_is_spread_over_nodes() -> None:
    assert bound(interleave=[0])["after"] == [0]


def test_without_a_plan_nothing_is_bound() -> None:
    found = bound()
    assert found["after"] == []
    assert found["threads"] == [usable()] * 2


def test_a_refusal_of_the_kernel_is_an_error() -> None:
    assert "NUMA node 63" in str(bound(node=63)["error"])
    assert "CPUs [4095]" in str(bound(cpus=[4095])["error"])
