"""Writes a model's weights to a file in another format, with llama.cpp's quantisation. It chooses no paths."""

from __future__ import annotations

import ctypes
import re
from collections import deque
from pathlib import Path

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.llama.model_loader import Progress, redirect_log
from tailrace.errors import ModelError
from tailrace.models.conversion_formats import ConversionFormat

#: llama.cpp reports its progress only in its log: ``[  12/ 272] blk.1...``
_PROGRESS_LINE = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")


def quantize(source: Path, target: Path, weight_format: ConversionFormat, *, threads: int, progress: Progress) -> None:
    """Write the weights of ``source`` to ``target`` in this format: seconds per billion weights, or minutes for the
    formats that search for their scales (IQ4_NL). Raises ModelError with llama.cpp's reason.

    Weights that are quantised already are dequantised first. llama.cpp gives the output matrix, or the embeddings that
    serve as one, Q6_K or better in every format here.
    """
    errors: deque[str] = deque(maxlen=3)

    def receive(level: str, line: str) -> None:
        if step := _PROGRESS_LINE.match(line):
            progress(int(step[1]) / int(step[2]))
        elif level == "error":
            errors.append(line)

    params = llama.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{weight_format.file_type}")
    params.allow_requantize = True
    # llama.cpp reads this array during the call, so it has to outlive it. An entry without a pattern ends the array.
    overrides = (llama.llama_model_tensor_override * (len(weight_format.q8_tensors) + 1))()
    for entry, part in zip(overrides, weight_format.q8_tensors, strict=False):
        # A regular expression with the dots around the name: it matches blk.3.attn_k.weight but not attn_k_norm.
        entry.pattern = rf"\.{part}\.weight".encode()
        entry.type = llama.GGML_TYPE_Q8_0
    if weight_format.q8_tensors:
        params.tt_overrides = overrides
    redirect_log(receive)
    try:
        code = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    finally:
        redirect_log(None)
    if code != 0:
        reason = " ".join(errors) or "its log gives no reason"
        raise ModelError(f"llama.cpp can't write {source.name} as {weight_format.name}: {reason}")
