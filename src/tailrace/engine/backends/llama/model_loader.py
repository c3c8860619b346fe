"""Loading a model file, and what the library logs. It makes no contexts."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.llama.kernel_assignment import Kernels, Placed, overrides, place
from tailrace.engine.backends.llama.upstream_repack import order_for
from tailrace.engine.kernels import loader
from tailrace.engine.kernels.interleaved_proof import KINDS
from tailrace.engine.kernels.layouts import LAYOUTS
from tailrace.errors import ModelError
from tailrace.machine.isa import read_isa
from tailrace.models.model_header import read_facts, read_header

#: Receives (level, line) of llama.cpp's log; level is a structlog method name.
LogSink = Callable[[str, str], None]
#: Receives the loaded part, 0 to 1.
Progress = Callable[[float], None]

#: ggml_log_level → structlog method. Its warnings are about choices that are made here (a KV cache larger than the
#: trained context, say), so they aren't the user's.
_LEVELS = {1: "debug", 2: "debug", 3: "debug", 4: "error"}


#: Formats of most of a file's weights, as GGUF calls them, that the kernels have an order of their own for.
_INTERLEAVED = frozenset({"Q4_0", "Q4_1", "Q8_0", "Q4_K_S", "Q4_K_M", "Q6_K"})


class _Override(ctypes.Structure):
    """``struct llama_model_tensor_buft_override``."""

    _fields_ = (("pattern", ctypes.c_char_p), ("kept", ctypes.c_void_p))


def load_model(
    path: Path,
    *,
    gpu_layers: int,
    own_weights: bool = False,
    copies: bool = False,
    offloads: bool = False,
    progress: Progress | None,
) -> tuple[llama.llama_model_p, list[Placed]]:
    """Load ``path``; the model, and what each of its products is computed by (nothing is known of it where it
    ``offloads`` layers). Where our kernels make ``copies`` of weights, or are better off without llama.cpp's orders,
    those alone get one that ours can't compute. Raises ModelError.
    """
    params = llama.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    if own_weights:
        # A mapped file's pages belong to all processes and lie on the node of the one that read them first.
        params.load_mode = llama.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = not (copies or _better_unordered(path))
    products = [] if offloads else products_of(path, copies=copies, upstream=params.use_extra_bufts)
    orders = overrides(products)
    named = (_Override * (len(orders) + 1))(*(_Override(pattern.encode(), kept) for pattern, kept in orders))
    params.tensor_buft_overrides = ctypes.addressof(named)
    if progress is not None:
        callback = llama.llama_progress_callback(lambda part, _: (progress(part), True)[1])
        params.progress_callback = callback
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if model is None:
        raise ModelError(f"llama.cpp can't load {path} (its log above says why): is it a complete GGUF file?")
    return model, products


def products_of(path: Path, *, copies: bool, upstream: bool) -> list[Placed]:
    """What computes each product of the model at ``path`` on the CPU, where our kernels make ``copies`` of weights or
    not, and llama.cpp puts all that it can in its orders (``upstream``) or not. Raises ModelError.
    """
    active = loader.status() == "on"
    kernels = Kernels(
        formats=frozenset(map(int, LAYOUTS)) if active else frozenset(),
        repacked=frozenset(map(int, KINDS)) if active and copies else frozenset(),
    )
    tensors = read_header(path).tensors
    return place(tensors, kernels, lambda tensor, experts: order_for(tensor, experts=experts), upstream=upstream)


def _better_unordered(path: Path) -> bool:
    """Whether weights that ours compute without a copy should lie as the file has them, instead of reordered for
    kernels of llama.cpp's own.

    Q4_K is faster with ours and with llama.cpp's tiles, which want it so: layers 2048 wide in Q4_K_M, 2 cores (Zen 5):
    1.0 times at one stream, 1.6 at 4, 1.5 at 8, 1.75 for a prompt of 256 tokens. AMX needs its own order.
    """
    if loader.status() != "on" or "AMX INT8" in read_isa().sets:
        return False
    return (read_facts(path).quantisation or "").startswith("Q4_K")


def is_interleaved(path: Path) -> bool:
    """Whether the kernels, where they are in force, copy most of the file's weights in an order of their own."""
    return read_facts(path).quantisation in _INTERLEAVED


def redirect_log(log: LogSink | None) -> None:
    """Send llama.cpp's log to ``log`` a line at a time; None drops it."""
    unfinished = ""

    def receive(level: int, text: bytes, _: object) -> None:
        nonlocal unfinished
        unfinished += text.decode("utf-8", "replace")
        *lines, unfinished = unfinished.split("\n")
        for line in lines:
            if log is not None and line.strip(" ."):
                log(_LEVELS.get(level, "debug"), line)

    # The binding frees nothing: the callback has to outlive every later call.
    global _log_callback
    _log_callback = llama.llama_log_callback(receive)
    llama.llama_log_set(_log_callback, ctypes.c_void_p(0))


_log_callback: object = None
