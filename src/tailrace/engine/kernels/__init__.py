"""Matrix kernels of our own, put in the place of llama.cpp's on CPUs that they are for.

``gemm.c`` is the code and says how it gets its turn, ``build`` compiles it for this CPU once and keeps it, ``proof``
checks every format's results before a library is used, ``force`` loads it. Nothing here knows models or the binding.
"""

from __future__ import annotations

from tailrace.errors import TailraceError


class KernelsUnavailable(TailraceError):
    """There are no kernels here; the text says why, for people."""
