"""Applies the plan to this process: binds threads to CPUs and memory to NUMA nodes.

It uses system calls, so libnuma isn't needed. A thread inherits both bindings from the thread that starts it, so a
process binds itself before it starts other threads.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Collection
from pathlib import Path

from tailrace.errors import ConfigurationError
from tailrace.machine.plan import ReplicaPlan

#: Numbers of the system calls set_mempolicy, get_mempolicy and migrate_pages.
_CALLS = {"x86_64": (238, 239, 256), "aarch64": (237, 236, 238)}
#: ``MPOL_BIND``: pages come only from the named nodes. ``MPOL_INTERLEAVE``: pages alternate between them.
_BIND, _INTERLEAVE = 2, 3
#: Bits of a node mask: the largest number of nodes that a kernel supports.
_MAX_NODES = 1024
_WORD_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)

_NODE_FOLDER = Path("/sys/devices/system/node")

_Mask = ctypes.c_ulong * (_MAX_NODES // _WORD_BITS)


def bind_cpus(cpus: Collection[int]) -> None:
    """Bind this thread, and threads that it starts later, to ``cpus``. No CPUs: nothing is bound.

    Raises ConfigurationError when the kernel refuses.
    """
    if not cpus:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigurationError("threads can't be bound to CPUs on this system: leave them unbound")
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise ConfigurationError(f"threads can't be bound to CPUs {sorted(cpus)}: {error.strerror}") from error


def bound_cpus() -> frozenset[int]:
    """The CPUs that this thread is bound to; empty on systems that can't bind threads."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def bind_memory(replica: ReplicaPlan) -> None:
    """Bind new memory of this thread, and of threads that it starts later, to the replica's node, or spread it over its
    nodes page by page. Memory that the process has already is moved.

    Does nothing where the plan leaves memory to the kernel. Raises ConfigurationError when the kernel refuses.
    """
    nodes = replica.interleave if replica.node is None else (replica.node,)
    if not nodes:
        return
    mask = _mask(nodes)
    others = {int(folder.name[4:]) for folder in _NODE_FOLDER.glob("node[0-9]*")} - {*nodes}
    try:
        set_policy, _, migrate = _calls()
        # The kernel reads one bit less than this number.
        _call(set_policy, _INTERLEAVE if replica.node is None else _BIND, ctypes.byref(mask), _MAX_NODES + 1)
        if others:
            _call(migrate, 0, _MAX_NODES + 1, ctypes.byref(_mask(others)), ctypes.byref(mask))
    except OSError as error:
        spelled = ", ".join(map(str, nodes))
        hint = " (a container needs the capability SYS_NICE for it)" if error.errno == errno.EPERM else ""
        raise ConfigurationError(f"memory can't be bound to NUMA node {spelled}: {error.strerror}{hint}") from error


def memory_nodes() -> frozenset[int]:
    """The nodes that this thread's memory is bound to or spread over; empty when the kernel chooses.

    Raises OSError when the kernel refuses to report it.
    """
    mode = ctypes.c_int()
    mask = _mask(set())
    _call(_calls()[1], ctypes.byref(mode), ctypes.byref(mask), _MAX_NODES + 1, None, 0)
    if mode.value not in (_BIND, _INTERLEAVE):
        return frozenset()
    return frozenset(node for node in range(_MAX_NODES) if mask[node // _WORD_BITS] >> node % _WORD_BITS & 1)


def _mask(nodes: Collection[int]) -> ctypes.Array[ctypes.c_ulong]:
    mask = _Mask()
    for node in nodes:
        mask[node // _WORD_BITS] |= 1 << node % _WORD_BITS
    return mask


def _calls() -> tuple[int, int, int]:
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
    if calls is None:
        raise OSError(errno.ENOSYS, "memory policies aren't known on this kind of machine")
    return calls


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
