"""llama.cpp's server of the RPC protocol, by which engines on other machines use this one's devices."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from tailrace.engine.backends.llama.ggml_function import ggml_function


def serve_devices(endpoint: str, devices: Sequence[int], *, threads: int, cache: str | None) -> None:
    """Serve ``devices`` at ``endpoint`` (``HOST:PORT``), one client at a time. Returns when it can't listen there.

    ``threads``: of a device that is a CPU. ``cache``: the folder of sent tensors; None: none are kept. The call
    releases the GIL.
    """
    array = (ctypes.c_void_p * len(devices))(*devices)
    start = ggml_function(
        "ggml_backend_rpc_start_server",
        None,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_void_p),
    )
    start(endpoint.encode(), None if cache is None else cache.encode(), threads, len(devices), array)
