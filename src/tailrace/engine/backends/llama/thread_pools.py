"""The compute threads: ggml's thread pools for decode and for prefill, made as the machine plan says.

Without a pool, ggml makes new threads for every graph that it computes. The binding declares neither the pools nor
their functions, so both are declared here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import llama_cpp.llama_cpp as llama
from llama_cpp._ggml import libggml as ggml

from tailrace.errors import ConfigurationError
from tailrace.machine.plan import PoolPlan

#: ``GGML_MAX_N_THREADS``: CPUs that a pool's mask can name.
_MAX_CPUS = 512
#: ``GGML_BACKEND_DEVICE_TYPE_CPU``
_CPU = 0


class _PoolParams(ctypes.Structure):
    """``struct ggml_threadpool_params`` of ggml.h. ``_struct_problem`` compares it with the library's."""

    _fields_ = [
        ("cpumask", ctypes.c_bool * _MAX_CPUS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    ]


class ThreadPools:
    """The two pools of one backend. The caller gives them to each context with ``attach``, and calls ``close`` after
    the last context is freed.

    Backends with equal plans (a model and its draft model) share pools: otherwise the threads of one would spin on the
    cores that the other needs. So these backends have to compute one after the other, on one thread.
    """

    def __init__(self, decode: PoolPlan, prefill: PoolPlan) -> None:
        """Make the pools.

        Raises ConfigurationError when ggml can't name a plan's CPUs, when a strict plan has fewer CPUs than threads,
        and when this llama.cpp has another struct of parameters.
        """
        _declare_functions()
        self._plans = (decode, prefill)
        self._pools = (_acquire(decode), _acquire(prefill))
        self._prefilling: dict[object, bool] = {}  #: by context's address: whether it has the prefill pool now

    def attach(self, context: object, *, prefill: bool = False) -> None:
        """Let ``context`` compute in the decode pool from now on, or in the prefill pool."""
        number = 1 if prefill else 0
        threads = self._plans[number].threads
        # llama.cpp takes each batch of more than one token for a prompt, also when several sequences decode. The caller
        # knows which it is, so both of the context's pools are the same one.
        llama.llama_set_n_threads(context, threads, threads)
        llama._lib.llama_attach_threadpool(context, self._pools[number], self._pools[number])
        self._prefilling[_address(context)] = prefill

    def use(self, context: object, *, prefill: bool) -> None:
        """As ``attach``, but does nothing when the context has this pool already."""
        if self._pools[0] != self._pools[1] and self._prefilling[_address(context)] != prefill:
            self.attach(context, prefill=prefill)

    def close(self) -> None:
        """Give the pools back. Threads that no other backend uses end."""
        for plan in self._plans:
            _release(plan)


#: The process's pools by plan: address and number of users.
_pools: dict[PoolPlan, tuple[int, int]] = {}


def _acquire(plan: PoolPlan) -> int:
    pool, users = _pools.get(plan) or (_make(plan), 0)
    _pools[plan] = (pool, users + 1)
    return pool


def _release(plan: PoolPlan) -> None:
    pool, users = _pools.pop(plan)
    if users > 1:
        _pools[plan] = (pool, users - 1)
    else:
        _cpu_function("ggml_threadpool_free", None, ctypes.c_void_p)(pool)


def _make(plan: PoolPlan) -> int:
    if any(cpu >= _MAX_CPUS for cpu in plan.cpus):
        raise ConfigurationError(
            f"llama.cpp can't bind threads to CPUs from {_MAX_CPUS} on: {max(plan.cpus)} is planned"
        )
    if plan.strict and len(plan.cpus) < plan.threads:
        raise ConfigurationError(f"{plan.threads} threads can't have one CPU each of {len(plan.cpus)}")
    params = _PoolParams()
    ggml.ggml_threadpool_params_init(ctypes.byref(params), plan.threads)
    for cpu in plan.cpus:
        params.cpumask[cpu] = True
    params.prio = plan.priority
    params.poll = plan.poll
    params.strict_cpu = plan.strict
    # A pool that starts active binds the thread that makes it, but another thread may come to compute.
    params.paused = True
    new = _cpu_function("ggml_threadpool_new", ctypes.c_void_p, ctypes.c_void_p)
    pool: int | None = new(ctypes.byref(params))
    if pool is None:
        raise MemoryError("ggml can't make a thread pool")
    return pool


def _cpu_function(name: str, result: type[ctypes.c_void_p] | None, argument: type[ctypes._CData]) -> Callable[..., Any]:
    """A function of the CPU backend's library. That library's name depends on the build; ggml's registry finds it."""
    registry = ggml.ggml_backend_dev_backend_reg(ggml.ggml_backend_dev_by_type(_CPU))
    return ctypes.CFUNCTYPE(result, argument)(ggml.ggml_backend_reg_get_proc_address(registry, name.encode()))


def _address(context: object) -> object:
    return ctypes.cast(context, ctypes.c_void_p).value if isinstance(context, ctypes._Pointer) else context


@cache
def _declare_functions() -> None:
    """Declare the types of functions that the binding doesn't declare, and check the struct that they take."""
    llama._lib.llama_attach_threadpool.argtypes = [ctypes.c_void_p] * 3
    llama._lib.llama_attach_threadpool.restype = None
    ggml.ggml_threadpool_params_init.argtypes = [ctypes.c_void_p, ctypes.c_int]
    ggml.ggml_threadpool_params_init.restype = None
    ggml.ggml_threadpool_params_match.argtypes = [ctypes.c_void_p] * 2
    ggml.ggml_threadpool_params_match.restype = ctypes.c_bool
    ggml.ggml_backend_dev_by_type.argtypes = [ctypes.c_int]
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    ggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    if problem := _struct_problem():
        raise ConfigurationError(
            f"this llama.cpp's ggml_threadpool_params isn't the one that tailrace knows ({problem}): "
            "install the version of llama-cpp-python that tailrace requires"
        )


def _struct_problem() -> str:
    """How ``_PoolParams`` differs from the library's struct; empty where they agree.

    ggml's own functions tell: ``init`` has to set exactly these fields to its defaults and nothing behind them, and
    ``match`` has to see a change of each field, at both ends of the CPU mask, too.
    """
    # The guard is large, so that a much larger struct of the library overwrites no other memory.
    size, guard = ctypes.sizeof(_PoolParams), 1 << 14
    memory = ctypes.create_string_buffer(b"\xaa" * (size + guard), size + guard)
    params = _PoolParams.from_buffer(memory)
    ggml.ggml_threadpool_params_init(ctypes.byref(params), 3)
    found = params.n_threads, params.prio, params.poll, params.strict_cpu, params.paused
    if found != (3, 0, 50, False, False) or any(params.cpumask):
        return f"its defaults are {found}"
    if memory.raw[size:] != b"\xaa" * guard:
        return "it is larger"
    changes: dict[str, Callable[[_PoolParams], None]] = {
        "n_threads": lambda other: setattr(other, "n_threads", 4),
        "prio": lambda other: setattr(other, "prio", 1),
        "poll": lambda other: setattr(other, "poll", 51),
        "strict_cpu": lambda other: setattr(other, "strict_cpu", True),
        "cpumask's first CPU": lambda other: other.cpumask.__setitem__(0, True),
        "cpumask's last CPU": lambda other: other.cpumask.__setitem__(_MAX_CPUS - 1, True),
    }
    for name, change in changes.items():
        other = _PoolParams.from_buffer_copy(params)
        if not ggml.ggml_threadpool_params_match(ctypes.byref(params), ctypes.byref(other)):
            return "equal ones differ"
        change(other)
        if ggml.ggml_threadpool_params_match(ctypes.byref(params), ctypes.byref(other)):
            return f"it doesn't have {name} there"
    return ""
