"""How long OpenMP's threads spin for work before they sleep.

ggml's own threads have a poll level for this. A llama.cpp that is compiled with OpenMP, the default, follows an
environment variable instead. libgomp reads it once, when the library is loaded.
"""

from __future__ import annotations

import os

#: Spins per poll level; plans for shared cores use level 1. Threads spin at the barriers between operations, on cores
#: that other processes need, too: with libgomp's default, decoding beside a busy process has 0.7 of this speed. Fewer
#: spins cost more than they give while the HTTP process has a core for 200 µs.
_SPINS_PER_LEVEL = 60_000
#: libgomp's default, and the value that stands for no limit.
_DEFAULT_SPINS = 300_000
_MAX_SPINS = 2**31 - 1


def set_spin_count(poll: int) -> None:
    """Let OpenMP's threads spin as long as ggml's would at the level ``poll`` (0 to 100).

    Variables that the user has set win. It has no effect after OpenMP is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS_PER_LEVEL * poll))


def spin_count() -> int:
    """Spins of OpenMP's threads before they sleep, as the environment sets them."""
    policy = os.environ.get("OMP_WAIT_POLICY", "").strip().lower()
    spins = os.environ.get("GOMP_SPINCOUNT", "").strip().lower()
    if spins.isdigit():
        return min(int(spins), _MAX_SPINS)
    unlimited = spins in ("infinite", "infinity")
    return {"passive": 0, "active": _MAX_SPINS}.get(policy, _MAX_SPINS if unlimited else _DEFAULT_SPINS)
