"""Writing a model's weights anew in another format. It knows no places and keeps nothing."""

from __future__ import annotations

import ctypes
import re
from collections import deque
from pathlib import Path

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.llama.library import Progress, redirect_log
from tailrace.errors import ModelError
from tailrace.models.recipes import Recipe

#: llama.cpp tells of its progress in its log alone: ``[  12/ 272] blk.1...``
_STEP = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")


def quantize(source: Path, target: Path, recipe: Recipe, *, threads: int, progress: Progress) -> None:
    """Write the weights of ``source`` to ``target`` in the recipe's formats. Seconds a billion weights, or minutes for
    the formats that search (IQ4_NL). Raises ModelError, with llama.cpp's reason.

    Weights that are quantised already are taken as what they stand for. Where embeddings and output share a tensor, or
    the output has its own, llama.cpp gives it Q6_K or better in every format here.
    """
    said: deque[str] = deque(maxlen=3)

    def hear(level: str, line: str) -> None:
        if step := _STEP.match(line):
            progress(int(step[1]) / int(step[2]))
        elif level == "error":
            said.append(line)

    params = llama.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{recipe.file_type}")
    params.allow_requantize = True
    # The C side reads it during the call: it has to live as long. An entry without a pattern ends it.
    overrides = (llama.llama_model_tensor_override * (len(recipe.keep) + 1))()
    for entry, part in zip(overrides, recipe.keep, strict=False):
        # A name by its own dots, as a regular expression: blk.3.attn_k.weight, but no attn_k_norm.
        entry.pattern = rf"\.{part}\.weight".encode()
        entry.type = llama.GGML_TYPE_Q8_0
    if recipe.keep:
        params.tt_overrides = overrides
    redirect_log(hear)
    try:
        code = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    finally:
        redirect_log(None)
    if code != 0:
        raise ModelError(
            f"llama.cpp can't write {source.name} as {recipe.name}: {' '.join(said) or 'it says no reason'}"
        )
