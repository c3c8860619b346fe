"""Loads a model file with llama.cpp, and receives llama.cpp's log. It makes no contexts."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.llama.kernel_assignment import (
    Assignment,
    OwnKernels,
    assign_kernels,
    buffer_type_overrides,
    ends_in_repacked_buffers,
    repackable_part,
)
from tailrace.engine.backends.llama.model_params import ModelParams
from tailrace.engine.backends.llama.options import LlamaOptions
from tailrace.engine.backends.llama.placed_model import PlacedModel, PlacementParams
from tailrace.engine.backends.llama.prediction_layers import without_prediction_layers
from tailrace.engine.backends.llama.upstream_repack import repack_buffer_type
from tailrace.engine.kernels import loader
from tailrace.errors import ModelError
from tailrace.machine.isa import read_isa
from tailrace.models.metadata_override import check_types
from tailrace.models.model_header import read_facts, read_header

#: Receives (level, line) of llama.cpp's log; level is a structlog method name.
LogSink = Callable[[str, str], None]
#: Receives the loaded part of a file, 0 to 1.
Progress = Callable[[float], None]

#: ggml_log_level → structlog method. llama.cpp's warnings are for debugging: they are about tailrace's own choices,
#: such as a KV cache that is larger than the trained context.
_LEVELS = {1: "debug", 2: "debug", 3: "debug", 4: "error"}

#: Part of the weights from which a model is repacked. With less, llama.cpp's repacking is worth more.
_MOST = 0.5


class _BufferTypeOverride(ctypes.Structure):
    """``struct llama_model_tensor_buft_override``, a public struct of llama.h."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def load_model(
    path: Path,
    options: LlamaOptions,
    *,
    repacks: bool = False,
    offloads: bool = False,
    progress: Progress | None,
) -> tuple[llama.llama_model_p, list[Assignment]]:
    """Load ``path``. Returns the model and the kernels of each weight tensor; no kernels where layers are offloaded.

    ``repacks``: own kernels repack weights, and llama.cpp repacks only tensors that they can't compute. Raises
    ModelError, and ConfigurationError for an option that can't work.
    """
    if options.overrides:
        check_types(read_header(path).values, options.overrides)
    model_params = ModelParams(options)
    params = model_params.struct
    params.load_mtp = options.predicts
    placement = PlacementParams(options.placed, params) if options.placed is not None else None
    # Own kernels repack nothing of such a file where memory is short, and llama.cpp's repacking takes as much.
    is_too_large = (
        not repacks and not offloads and loader.status() == "on" and repacks_most_weights(path, options.placed)
    )
    params.use_extra_bufts = not (repacks or is_too_large or _is_better_unrepacked(path) or _ends_if_repacked(path))
    assignments = (
        []
        if offloads
        else assignments_for(path, repacks=repacks, upstream_repacks=params.use_extra_bufts, predicts=options.predicts)
    )
    types = [(each.tensor.name, each.buffer_type) for each in assignments]
    if placement is not None and options.placed is not None:
        assignments = [each for each in assignments if options.placed.is_on_cpu(each.tensor.name)]
        types = placement.buffer_types(dict(types), options.placed.plan.sizes)
    overrides = buffer_type_overrides(types)
    # llama.cpp reads this array during the call. An entry without a pattern ends it.
    array = (_BufferTypeOverride * (len(overrides) + 1))(
        *(_BufferTypeOverride(pattern.encode(), buffer_type) for pattern, buffer_type in overrides)
    )
    params.tensor_buft_overrides = ctypes.addressof(array)
    if progress is not None:
        callback = llama.llama_progress_callback(lambda part, _: (progress(part), True)[1])
        params.progress_callback = callback
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if model is None:
        raise ModelError(f"llama.cpp can't load {path} (its log above says why): is it a complete GGUF file?")
    return model, assignments


def assignments_for(path: Path, *, repacks: bool, upstream_repacks: bool, predicts: bool = True) -> list[Assignment]:
    """The kernels that compute each weight tensor of the model at ``path`` on the CPU. Raises ModelError.

    ``repacks``: tailrace's kernels repack weights. ``upstream_repacks``: llama.cpp repacks all tensors that it can.
    ``predicts``: prediction layers are loaded.
    """
    header = read_header(path)
    return assign_kernels(
        header.tensors if predicts else without_prediction_layers(header.values, header.tensors),
        _own_kernels(repacks=repacks),
        lambda tensor, experts: repack_buffer_type(tensor, experts=experts),
        upstream_repacks=upstream_repacks,
    )


def _own_kernels(*, repacks: bool) -> OwnKernels:
    formats = loader.formats()
    return OwnKernels(
        formats=frozenset(each.ggml_type for each in formats if each.in_file_order),
        repacked=frozenset(each.ggml_type for each in formats if each.repacked and repacks),
    )


def _is_better_unrepacked(path: Path) -> bool:
    """Whether weights that tailrace's kernels compute without repacking should stay as the file has them.

    Otherwise llama.cpp repacks them for its own kernels. Q4_K is faster with tailrace's kernels and llama.cpp's tiles,
    which need the file's layout: 1.5 times at eight sequences. AMX needs llama.cpp's repacked layout.
    """
    if loader.status() != "on" or "AMX INT8" in read_isa().sets:
        return False
    return (read_facts(path).quantisation or "").startswith("Q4_K")


def _ends_if_repacked(path: Path) -> bool:
    """Whether llama.cpp may repack only the tensors that it is told by name."""
    return ends_in_repacked_buffers(
        read_header(path).tensors, lambda tensor, experts: repack_buffer_type(tensor, experts=experts)
    )


def repacks_most_weights(path: Path, placed: PlacedModel | None = None) -> bool:
    """Whether tailrace's kernels, where they are active, can repack most of the weights that the CPU computes with.

    Raises ModelError.
    """
    tensors = [each for each in read_header(path).tensors if placed is None or placed.is_on_cpu(each.name)]
    return repackable_part(tensors, _own_kernels(repacks=True)) >= _MOST


def redirect_log(log: LogSink | None) -> None:
    """Send llama.cpp's log to ``log``, one call for each line. None drops it."""
    unfinished = ""

    def receive(level: int, text: bytes, _: object) -> None:
        nonlocal unfinished
        unfinished += text.decode("utf-8", "replace")
        *lines, unfinished = unfinished.split("\n")
        for line in lines:
            if log is not None and line.strip(" ."):
                log(_LEVELS.get(level, "debug"), line)

    # llama.cpp calls it at any later time, so it must not be collected.
    global _log_callback
    _log_callback = llama.llama_log_callback(receive)
    llama.llama_log_set(_log_callback, ctypes.c_void_p(0))


def report_aborts(sink: Callable[[str], None]) -> None:
    """Call ``sink`` with llama.cpp's message when a check of it fails. The process ends by SIGABRT afterwards.

    Without a sink llama.cpp starts a debugger to print its stack, if there is one.
    """
    global _abort_callback
    _abort_callback = _ABORT_CALLBACK(lambda message: sink(_without_folders(message.decode("utf-8", "replace"))))
    llama._lib.ggml_set_abort_callback(_abort_callback)


def _without_folders(message: str) -> str:
    """``FOLDER/file.cpp:12: text`` without the folder, which is where llama.cpp was compiled."""
    place, separator, text = message.strip().partition(": ")
    return f"{place.rpartition('/')[2]}{separator}{text}"


#: ``ggml_abort_callback_t`` of ggml.h.
_ABORT_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_abort_callback: object = None
_log_callback: object = None
