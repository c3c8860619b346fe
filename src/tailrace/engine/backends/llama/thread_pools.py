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
import msgspec
from llama_cpp._ggml import libggml as ggml

from tailrace.child import best_effort
from tailrace.errors import ConfigurationError
from tailrace.machine.binding import bind_cpus
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
        self._part = (0, 1)
        self._made: dict[PoolPlan, int] = {}  #: the pools that this object holds
        self._current = self._select()
        self._contexts: dict[int, tuple[object, bool]] = {}  #: by address: each, and whether it has the prefill pool

    def _select(self) -> tuple[tuple[int, int], ...]:
        """Pool and number of threads for decode and for prefill, as this engine's part of the cores allows."""
        return tuple(self._pool(plan) for plan in self._plans)

    def _pool(self, plan: PoolPlan) -> tuple[int, int]:
        part = part_of(plan, *self._part)
        # Threads that aren't bound to CPUs can be fewer in the same pool.
        pool_plan = part if plan.cpus else plan
        if pool_plan not in self._made:
            self._made[pool_plan] = _acquire(pool_plan)
        return self._made[pool_plan], part.threads

    def attach(self, context: object, *, prefill: bool = False) -> None:
        """Let ``context`` compute in the decode pool from now on, or in the prefill pool."""
        pool, threads = self._current[1 if prefill else 0]
        # llama.cpp takes each batch of more than one token for a prompt, also when several sequences decode. The caller
        # knows which it is, so both of the context's pools are the same one.
        llama.llama_set_n_threads(context, threads, threads)
        llama._lib.llama_attach_threadpool(context, pool, pool)
        self._contexts[_address(context)] = context, prefill

    def use(self, context: object, *, prefill: bool) -> None:
        """As ``attach``, but does nothing when the context has this pool already."""
        if self._current[0] != self._current[1] and self._contexts[_address(context)][1] != prefill:
            self.attach(context, prefill=prefill)

    def detach(self, context: object) -> None:
        """The context is freed."""
        self._contexts.pop(_address(context), None)

    def share(self, place: int, count: int) -> None:
        """Compute in one of ``count`` parts of the planned threads and CPUs from now on, on the calling thread too."""
        self._part = place, count
        self._current = self._select()
        for context, prefill in list(self._contexts.values()):
            self.attach(context, prefill=prefill)
        self._bind_caller()

    def _bind_caller(self) -> None:
        """Keep the calling thread to its part: a pool of one thread binds nothing itself."""
        if self._plans[0].cpus:
            with best_effort():
                bind_cpus(part_of(self._plans[0], *self._part).cpus)

    def close(self) -> None:
        """Give the pools back. Threads that no other backend uses end."""
        for plan in self._made:
            _release(plan)
        self._made.clear()


def part_of(plan: PoolPlan, place: int, count: int) -> PoolPlan:
    """The part of a pool at ``place`` of ``count``: disjoint CPUs and a share of the threads, at least one.

    Threads that are left over go to the first parts.
    """
    if count == 1:
        return plan
    threads, cpus = _split(plan.threads, place, count), _split(len(plan.cpus), place, count)
    mine = plan.cpus[cpus[0] : cpus[1]]
    return msgspec.structs.replace(plan, threads=max(1, threads[1] - threads[0]), cpus=mine)


def _split(total: int, place: int, count: int) -> tuple[int, int]:
    """Begin and end of part ``place``. Where there are more parts than things, each part is one thing."""
    if total == 0:
        return 0, 0
    if total < count:
        return place % total, place % total + 1
    each, left = divmod(total, count)
    begin = place * each + min(place, left)
    return begin, begin + each + (place < left)


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


def _address(context: object) -> int:
    address = ctypes.cast(context, ctypes.c_void_p).value if isinstance(context, ctypes._Pointer) else context
    assert isinstance(address, int)
    return address


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
