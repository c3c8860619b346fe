"""The backend over llama.cpp. Only modules of this package use its Python binding.

``backend`` is the backend; ``context`` its KV cache, ``forward_pass`` the passes through it. ``embedding_context`` is
its second context, ``llama_vocab`` its vocabulary, ``model_metadata`` its facts. ``model_loader`` loads the file and
receives llama.cpp's log, ``model_params`` fills llama.cpp's structs. ``kernel_assignment`` decides which kernels
compute each weight tensor, ``upstream_repack`` asks llama.cpp which ones it can repack, ``memory_budget`` how much
memory to take. ``thread_pools`` makes the compute threads. ``quantize`` writes model files. ``tokenize_worker`` is a
process of its own.

They use the binding's low-level module: llama.h in ctypes. Its calls release the GIL, so other threads run during a
step.
"""

from __future__ import annotations

import atexit
import sys

from tailrace.engine.kernels import loader
from tailrace.machine.openmp_spin import set_spin_count

# The order of this module matters. OpenMP reads the spin count when it is loaded, by the imports below. The engine
# process has set the plan's value already; 1 is for all other programs.
set_spin_count(1)
# The dynamic linker prefers symbols of the library that is loaded first: the kernels replace llama.cpp's functions.
loader.load()

from tailrace.engine.backends.llama.backend import LlamaBackend  # noqa: E402  # after the kernels' library
from tailrace.engine.backends.llama.model_loader import LogSink, Progress, report_aborts  # noqa: E402  # after the kernels' library
from tailrace.engine.backends.llama.options import LlamaOptions, RopeOptions  # noqa: E402  # after the kernels' library

# The binding opens /dev/null twice at import, for its high-level classes, and never closes it.
for _name in ("outnull_file", "errnull_file"):
    _file = getattr(sys.modules.get("llama_cpp._utils"), _name, None)
    if _file is not None:
        atexit.register(_file.close)

__all__ = ["LlamaBackend", "LlamaOptions", "LogSink", "Progress", "RopeOptions", "report_aborts"]
