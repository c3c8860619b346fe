"""How much memory a worker offers of its CPU's, and what is left for the kernels' copies of weights. A GPU's isn't this
process's own, and isn't limited here.

Engines plan with what a worker reports, so this is an offer and no bound: a client that takes more gets it.
"""

from __future__ import annotations

from pathlib import Path

from tailrace.errors import ConfigurationError
from tailrace.machine.free_memory import available_memory

_STATUS = Path("/proc/self/status")
#: Part of the memory that is left beside a model's weights and KV cache which repacked weights may take.
_REPACKED_PART = 0.75


class MemoryLimit:
    """The offered memory, less what has been allocated since."""

    def __init__(self, size: int) -> None:
        """Offer ``size`` bytes from now on. Raises ConfigurationError where the kernel doesn't count them."""
        if not _STATUS.exists():
            raise ConfigurationError("--memory-mb needs Linux, whose kernel counts a process's private memory")
        self._limit = _private_bytes() + size

    @property
    def free(self) -> int:
        """Bytes that are left."""
        return max(0, self._limit - _private_bytes())


def repacking_capacity(limit: MemoryLimit | None) -> int:
    """Bytes that repacked weights may take now, beside memory that is allocated and not yet used."""
    unused = max(0, _private_bytes() - _status_bytes("RssAnon")) if _STATUS.exists() else 0
    free = available_memory() - unused
    return max(0, int(_REPACKED_PART * (free if limit is None else min(free, limit.free))))


def _private_bytes() -> int:
    return _status_bytes("VmData")


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel doesn't tell this process's {name}")
