"""How much memory a worker offers of its CPU's. A GPU's isn't this process's own, and isn't limited here.

Engines plan with what a worker reports, so this is an offer and no bound: a client that takes more gets it.
"""

from __future__ import annotations

from pathlib import Path

from tailrace.errors import ConfigurationError

_STATUS = Path("/proc/self/status")


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


def _private_bytes() -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel doesn't tell this process's private memory")
