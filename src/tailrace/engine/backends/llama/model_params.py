"""llama.cpp's structs for loading a model and making a context, filled from ``LlamaOptions``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.llama.options import LlamaOptions, RopeOptions
from tailrace.errors import ConfigurationError
from tailrace.models.kv_shape import CacheTypes
from tailrace.models.metadata_override import MetadataOverride
from tailrace.settings import CacheType

_SPLIT_MODES = {
    "none": llama.LLAMA_SPLIT_MODE_NONE,
    "layer": llama.LLAMA_SPLIT_MODE_LAYER,
    "row": llama.LLAMA_SPLIT_MODE_ROW,
}
_ROPE_SCALINGS = {
    "model": llama.LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED,
    "none": llama.LLAMA_ROPE_SCALING_TYPE_NONE,
    "linear": llama.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    "yarn": llama.LLAMA_ROPE_SCALING_TYPE_YARN,
}
#: ``enum ggml_type``.
_GGML_TYPES: dict[CacheType, int] = {"f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2}


class ModelParams:
    """``struct llama_model_params``, with the arrays that it points to."""

    def __init__(self, options: LlamaOptions) -> None:
        """Raises ConfigurationError for more parts of a split than there may be devices."""
        self.struct = params = llama.llama_model_default_params()
        params.n_gpu_layers = options.gpu_layers
        params.split_mode = _SPLIT_MODES[options.split_mode]
        params.main_gpu = options.main_gpu
        # Pages of a mapped file are shared by all processes, and lie on the NUMA node of the first reader.
        if options.private_weights or not options.mmap:
            params.load_mode = llama.LLAMA_LOAD_MODE_NONE
        self._overrides = override_array(options.overrides)
        params.kv_overrides = self._overrides
        if options.tensor_split:
            devices = llama.llama_max_devices()
            if len(options.tensor_split) > devices:
                raise ConfigurationError(
                    f"tensor_split has {len(options.tensor_split)} parts, and there may be {devices} devices"
                )
            self._split = (ctypes.c_float * devices)(*options.tensor_split)
            params.tensor_split = self._split


def override_array(overrides: Sequence[MetadataOverride]) -> object:
    """llama.cpp's array of overrides, which an empty key ends; None without any."""
    if not overrides:
        return None
    array = (llama.llama_model_kv_override * (len(overrides) + 1))()
    for entry, override in zip(array, overrides, strict=False):
        entry.key = override.key.encode()
        value = override.value
        # A bool is an int, too.
        if isinstance(value, bool):
            entry.tag, entry.value.val_bool = llama.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
        elif isinstance(value, int):
            entry.tag, entry.value.val_i64 = llama.LLAMA_KV_OVERRIDE_TYPE_INT, value
        elif isinstance(value, float):
            entry.tag, entry.value.val_f64 = llama.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
        else:
            entry.tag, entry.value.val_str = llama.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
    return array


def context_params(
    *, cells: int, slots: int, batch: int, cache_types: CacheTypes, rope: RopeOptions, unified: bool = True
) -> llama.llama_context_params:
    """``struct llama_context_params`` for so many cells and sequences. ``batch``: tokens of the largest pass.
    ``unified``: all sequences share the cells.
    """
    params = llama.llama_context_default_params()
    params.n_ctx = cells
    params.n_batch = params.n_ubatch = batch
    params.n_seq_max = slots
    params.kv_unified = unified
    params.no_perf = True
    _set_cache_types(params, cache_types)
    _set_rope(params, rope)
    return params


def _set_cache_types(params: llama.llama_context_params, types: CacheTypes) -> None:
    """Set how a context stores keys and values. llama.cpp turns flash attention on where the values' type needs it."""
    params.type_k = _GGML_TYPES[types.k]
    params.type_v = _GGML_TYPES[types.v]


def _set_rope(params: llama.llama_context_params, rope: RopeOptions) -> None:
    """Set a context's RoPE and YaRN parameters. Every context of a model has the same ones."""
    params.rope_scaling_type = _ROPE_SCALINGS[rope.scaling]
    params.rope_freq_base = rope.freq_base
    params.rope_freq_scale = rope.freq_scale
    params.yarn_ext_factor = rope.yarn_ext_factor
    params.yarn_attn_factor = rope.yarn_attn_factor
    params.yarn_beta_fast = rope.yarn_beta_fast
    params.yarn_beta_slow = rope.yarn_beta_slow
    params.yarn_orig_ctx = rope.yarn_orig_ctx
