"""The compute threads: ggml's thread pools for decode and for prefill, made as the machine plan says.

The binding knows neither the pools nor how to attach them, so their C functions are declared here. Left to itself, ggml
makes a pool for every graph that it computes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp.llama_cpp as llama
from llama_cpp._ggml import libggml as ggml

from tailrace.errors import ConfigurationError
from tailrace.machine.plan import PoolPlan

#: ``GGML_MAX_N_THREADS``: CPU numbers that a pool's mask can name.
_MASK = 512
#: ``GGML_BACKEND_DEVICE_TYPE_CPU``
_CPU = 0


class _Params(ctypes.Structure):
    """``struct ggml_threadpool_params``."""

    _fields_ = [
        ("cpumask", ctypes.c_bool * _MASK),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    ]


class ThreadPools:
    """The pools of one backend. Every context has to be given them with ``attach``; ``close`` comes after the last of
    the contexts is freed.

    Backends whose plans are alike share their pools (a model and its draft model): else the threads of one would spin
    for work on the cores that those of the other need. So they compute in turn, in one thread.
    """

    def __init__(self, decode: PoolPlan, prefill: PoolPlan) -> None:
        """Make the pools. Raises ConfigurationError when a plan names CPUs that ggml can't, or too few for strict
        placement.
        """
        _declare()
        self._plans = (decode, prefill)
        self._pools = (_take(decode), _take(prefill))
        self._prefilling: dict[object, bool] = {}  #: contexts by address, and the pool that each has now

    def attach(self, context: object, *, prefill: bool = False) -> None:
        """Have ``context`` compute in one of the pools from now on: the decode pool at first."""
        number = 1 if prefill else 0
        threads = self._plans[number].threads
        # llama.cpp calls every batch of more than one token a prompt, several streams' decode too. Here the caller
        # knows which it is, so both of llama.cpp's pools are the same one.
        llama.llama_set_n_threads(context, threads, threads)
        llama._lib.llama_attach_threadpool(context, self._pools[number], self._pools[number])
        self._prefilling[_address(context)] = prefill

    def use(self, context: object, *, prefill: bool) -> None:
        """``attach`` where that changes anything."""
        if self._pools[0] != self._pools[1] and self._prefilling[_address(context)] != prefill:
            self.attach(context, prefill=prefill)

    def close(self) -> None:
        """End the threads that nobody else computes with."""
        for plan in self._plans:
            _leave(plan)


#: The process's pools, and how many users each has.
_pools: dict[PoolPlan, tuple[int, int]] = {}


def _take(plan: PoolPlan) -> int:
    pool, users = _pools.get(plan) or (_make(plan), 0)
    _pools[plan] = (pool, users + 1)
    return pool


def _leave(plan: PoolPlan) -> None:
    pool, users = _pools.pop(plan)
    if users > 1:
        _pools[plan] = (pool, users - 1)
    else:
        _function("ggml_threadpool_free", None, ctypes.c_void_p)(pool)


def _function(name: str, result: type[ctypes.c_void_p] | None, argument: type[ctypes._CData]) -> Callable[..., Any]:
    """A function of the CPU backend's own library, whose name depends on the build: this is the way to it in all."""
    registry = ggml.ggml_backend_dev_backend_reg(ggml.ggml_backend_dev_by_type(_CPU))
    return ctypes.CFUNCTYPE(result, argument)(ggml.ggml_backend_reg_get_proc_address(registry, name.encode()))


def _make(plan: PoolPlan) -> int:
    params = _Params()
    ggml.ggml_threadpool_params_init(ctypes.byref(params), plan.threads)
    if params.n_threads != plan.threads:
        raise AssertionError("ggml_threadpool_params isn't laid out as it is here")
    if any(cpu >= _MASK for cpu in plan.cpus):
        raise ConfigurationError(f"llama.cpp can't bind threads to CPUs from {_MASK} on: {max(plan.cpus)} is planned")
    if plan.strict and len(plan.cpus) < plan.threads:
        raise ConfigurationError(f"{plan.threads} threads can't have one CPU each of {len(plan.cpus)}")
    for cpu in plan.cpus:
        params.cpumask[cpu] = True
    params.prio = plan.priority
    params.poll = plan.poll
    params.strict_cpu = plan.strict
    # Else the thread that makes the pool would be bound at once, though another one may come to compute.
    params.paused = True
    pool: int | None = _function("ggml_threadpool_new", ctypes.c_void_p, ctypes.POINTER(_Params))(ctypes.byref(params))
    if pool is None:
        raise MemoryError("ggml can't make a thread pool")
    return pool


def _address(context: object) -> object:
    return ctypes.cast(context, ctypes.c_void_p).value if isinstance(context, ctypes._Pointer) else context


def _declare() -> None:
    """Types of the functions that the binding doesn't declare."""
    llama._lib.llama_attach_threadpool.argtypes = [ctypes.c_void_p] * 3
    llama._lib.llama_attach_threadpool.restype = None
    ggml.ggml_threadpool_params_init.argtypes = [ctypes.POINTER(_Params), ctypes.c_int]
    ggml.ggml_threadpool_params_init.restype = None
    ggml.ggml_backend_dev_by_type.argtypes = [ctypes.c_int]
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    ggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
