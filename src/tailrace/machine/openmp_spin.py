"""How long OpenMP's threads spin for work before they sleep.

ggml's own threads have a poll level for it. Those of a llama.cpp that is compiled with OpenMP, the default, follow an
environment variable instead, which is read once in a process: when the library is loaded.
"""

from __future__ import annotations

import os

# Threads spin at the barriers between operations. On cores that somebody else needs too (a neighbour, a compiler) they
# burn the very time that the late thread is waiting for; but sleeping while the HTTP process has the other core for
# 200 µs costs more than it gives. Decode with 2 threads on 2 cores: against 10,000 turns, 60,000 give 1.03 at one
# stream and 1.02 at eight on a quiet machine, 300,000 (libgomp's own) 1.01 and 1.02; beside one busy process 10,000
# give 1.5 of libgomp's own.
#: Turns for each poll level: level 1 is what shared cores are planned with.
_TURNS = 60_000
#: What libgomp does when nobody says anything, and what stands for "for ever".
_UNSAID = 300_000
_FOREVER = 2**31 - 1


def set_spin_count(poll: int) -> None:
    """Have OpenMP's threads spin as long as ggml's would at ``poll`` (0 to 100), unless the environment says otherwise
    already. Without effect once OpenMP is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_TURNS * poll))


def spin_count() -> int:
    """How often OpenMP's threads look for work before they sleep, by the environment."""
    policy = os.environ.get("OMP_WAIT_POLICY", "").strip().lower()
    said = os.environ.get("GOMP_SPINCOUNT", "").strip().lower()
    if said.isdigit():
        return min(int(said), _FOREVER)
    return {"passive": 0, "active": _FOREVER}.get(policy, _FOREVER if said in ("infinite", "infinity") else _UNSAID)
