"""The declared struct of thread pool parameters is compared with the one of the installed llama.cpp."""

from __future__ import annotations

import ctypes

import pytest

# The backend's package has to be imported first: it loads the kernels before llama.cpp.
from tailrace.engine.backends.llama import thread_pools
from tailrace.errors import ConfigurationError
from tailrace.machine.plan import PoolPlan

_FIELDS = list(thread_pools._PoolParams._fields_)


def changed(**replacements: tuple[str, type] | None) -> type[ctypes.Structure]:
    """The declared struct with other fields in some places; None leaves one out."""
    fields = [replacements.get(name, (name, kind)) for name, kind, *_ in _FIELDS]
    return type("Changed", (ctypes.Structure,), {"_fields_": [field for field in fields if field is not None]})


def test_the_installed_library_has_the_declared_struct() -> None:
    thread_pools._declare_functions()
    assert thread_pools._struct_problem() == ""


@pytest.mark.parametrize(
    "other",
    [
        changed(cpumask=("cpumask", ctypes.c_bool * 256)),
        changed(cpumask=("cpumask", ctypes.c_bool * 1024)),
        changed(prio=("poll", ctypes.c_uint32), poll=("prio", ctypes.c_int)),
        changed(strict_cpu=("paused", ctypes.c_bool), paused=("strict_cpu", ctypes.c_bool)),
        changed(n_threads=("n_threads", ctypes.c_int64)),
        changed(poll=("poll", ctypes.c_uint64)),
    ],
    ids=["short mask", "long mask", "prio after poll", "paused before strict", "wide n_threads", "wide poll"],
)
def test_another_struct_is_noticed(monkeypatch: pytest.MonkeyPatch, other: type[ctypes.Structure]) -> None:
    thread_pools._declare_functions()
    monkeypatch.setattr(thread_pools, "_PoolParams", other)
    monkeypatch.setattr(thread_pools, "_MAX_CPUS", len(other().cpumask))
    assert thread_pools._struct_problem()
    thread_pools._declare_functions.cache_clear()
    with pytest.raises(ConfigurationError, match="ggml_threadpool_params isn't the one"):
        thread_pools.ThreadPools(PoolPlan(threads=1), PoolPlan(threads=1))


def test_a_plan_that_ggml_can_not_follow_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="can't bind threads to CPUs from 512 on: 600 is planned"):
        thread_pools.ThreadPools(PoolPlan(threads=1, cpus=(600,)), PoolPlan(threads=1))
    with pytest.raises(ConfigurationError, match="2 threads can't have one CPU each of 1"):
        thread_pools.ThreadPools(PoolPlan(threads=2, cpus=(0,), strict=True), PoolPlan(threads=1))
