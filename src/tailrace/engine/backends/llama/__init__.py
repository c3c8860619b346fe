"""The backend over llama.cpp, and the only rooms that touch its binding.

``backend`` is the backend itself, ``batch`` the arrays that a decode is fed from, ``threads`` the pools that compute,
``library`` loads models and takes its log, ``placement`` decides what computes each product, ``orders`` asks llama.cpp
which orders of weights it has, ``options`` is what they are told, ``memory`` what they may take. They use the binding's
low-level module, which is llama.h in ctypes: calls release the GIL, so that other threads go on while a step is
computed.
"""

from __future__ import annotations

import atexit
import sys

from tailrace.engine.kernels import loader
from tailrace.machine.openmp_spin import set_spin_count

# OpenMP reads it when it is loaded: before the imports below. The engine process has set what its plan says by now.
set_spin_count(1)
# And the linker prefers what is loaded first.
loader.load()

from tailrace.engine.backends.llama.backend import LlamaBackend  # noqa: E402
from tailrace.engine.backends.llama.model_loader import LogSink, Progress  # noqa: E402
from tailrace.engine.backends.llama.options import LlamaOptions  # noqa: E402

# The binding opens /dev/null twice when it is imported, for calls that aren't used here, and never closes it.
for _name in ("outnull_file", "errnull_file"):
    _file = getattr(sys.modules.get("llama_cpp._utils"), _name, None)
    if _file is not None:
        atexit.register(_file.close)

__all__ = ["LlamaBackend", "LlamaOptions", "LogSink", "Progress"]
