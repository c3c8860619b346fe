"""Kernels of our own, put in the place of llama.cpp's on CPUs that they are for.

``gemm.c`` (products) and ``attention.c`` say how they get their turn and share the work between threads, ``tiles_*.h``
and ``attend.h`` do it, ``build`` has them made for this CPU by ``compile``, ``proof`` and ``*_proof`` check all
results before a library is used, ``force`` loads it. ``copies`` has weights copied in another order (``copies.c``),
which ``interleaved.c`` multiplies with, and
``prompt_amx.c`` where columns are many and the CPU has tiles. Nothing here knows models or the binding.
"""

from __future__ import annotations

from tailrace.errors import TailraceError


class KernelsUnavailable(TailraceError):
    """There are no kernels here; the text says why, for people."""
