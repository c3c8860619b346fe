"""The backend over llama.cpp, and the only rooms that touch its binding.

``backend`` is the backend itself, ``batch`` the arrays that a decode is fed from, ``threads`` the pools that compute,
``library`` loads models and takes its log. They use the binding's low-level module, which is llama.h in ctypes: calls
release the GIL, so that other threads go on while a step is computed.
"""

from __future__ import annotations

import os

# OpenMP's threads spin at barriers for a millisecond and more before they sleep. On cores that somebody else needs too
# (a neighbour, a compiler) they burn the very time that the late thread is waiting for; but sleeping while the HTTP
# process has the other core for 200 µs costs more than it gives. Read when libgomp is loaded, hence before the binding.
# Decode with 2 threads on 2 cores: against 10,000 turns, 60,000 give 1.03 at one stream and 1.02 at eight on a quiet
# machine, 300,000 (libgomp's own) 1.01 and 1.02; beside one busy process 10,000 give 1.5 of libgomp's own.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "60000")

from tailrace.engine.llama.backend import LlamaBackend, LlamaOptions
from tailrace.engine.llama.library import LogSink, Progress

__all__ = ["LlamaBackend", "LlamaOptions", "LogSink", "Progress"]
