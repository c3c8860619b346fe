"""Tiny models of random weights, one of each kind of memory, with a vocabulary of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

#: Architecture by what the model remembers its tokens by.
ARCHITECTURES = {"dense": "llama", "sliding": "gemma2", "recurrent": "mamba", "hybrid": "lfm2"}

_WIDTH, _FEED_FORWARD, _HEAD, _LAYERS, _CONTEXT = 64, 128, 32, 2, 2048
_INNER, _STATE, _CONVOLUTION, _RANK = 128, 16, 4, 4
_WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]


def tiny_model(kind: str, folder: Path) -> Path:
    """The file of a model of this kind, made in ``folder``."""
    architecture = ARCHITECTURES[kind]
    path = folder / f"tiny-{kind}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(0 if kind == "recurrent" else _FEED_FORWARD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if kind == "recurrent":
        writer.add_ssm_conv_kernel(_CONVOLUTION)
        writer.add_ssm_inner_size(_INNER)
        writer.add_ssm_state_size(_STATE)
        writer.add_ssm_time_step_rank(_RANK)
    else:
        heads = _WIDTH // _HEAD
        writer.add_head_count(heads)
        # A layer without heads for keys is one of convolutions.
        writer.add_head_count_kv([0, heads] if kind == "hybrid" else heads)
        writer.add_key_length(_HEAD)
        writer.add_value_length(_HEAD)
        writer.add_rope_dimension_count(_HEAD)
    if kind == "sliding":
        writer.add_sliding_window(64)
    if kind == "hybrid":
        writer.add_shortconv_l_cache(3)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(_WORDS)
    writer.add_token_scores([0.0] * len(_WORDS))
    writer.add_token_types([2, 3, 3, *[6] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(3)
    for name, shape in _tensors(kind):
        vector = len(shape) == 1
        numbers = np.ones(shape) if vector else random.standard_normal(shape) / np.sqrt(shape[-1])
        writer.add_tensor(name, -np.abs(numbers, dtype=np.float32) if "ssm_a" in name else numbers.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(kind: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, rows first."""
    yield "token_embd.weight", (len(_WORDS), _WIDTH)
    yield "token_embd_norm.weight" if kind == "hybrid" else "output_norm.weight", (_WIDTH,)
    for layer in range(_LAYERS):
        for name, shape in _layer(kind, layer):
            yield f"blk.{layer}.{name}", shape


def _layer(kind: str, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "attn_norm.weight", (_WIDTH,)
    if kind == "recurrent":
        yield "ssm_in.weight", (2 * _INNER, _WIDTH)
        yield "ssm_conv1d.weight", (_INNER, _CONVOLUTION)
        yield "ssm_conv1d.bias", (_INNER,)
        yield "ssm_x.weight", (_RANK + 2 * _STATE, _INNER)
        yield "ssm_dt.weight", (_INNER, _RANK)
        yield "ssm_dt.bias", (_INNER,)
        yield "ssm_a", (_INNER, _STATE)
        yield "ssm_d", (_INNER,)
        yield "ssm_out.weight", (_WIDTH, _INNER)
        return
    if kind == "hybrid" and not layer:
        yield "shortconv.conv.weight", (_WIDTH, 3)
        yield "shortconv.in_proj.weight", (3 * _WIDTH, _WIDTH)
        yield "shortconv.out_proj.weight", (_WIDTH, _WIDTH)
    else:
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{name}.weight", (_WIDTH, _WIDTH)
    if kind == "hybrid" and layer:
        yield "attn_q_norm.weight", (_HEAD,)
        yield "attn_k_norm.weight", (_HEAD,)
    if kind == "sliding":
        yield "post_attention_norm.weight", (_WIDTH,)
        yield "post_ffw_norm.weight", (_WIDTH,)
    yield "ffn_norm.weight", (_WIDTH,)
    yield "ffn_gate.weight", (_FEED_FORWARD, _WIDTH)
    yield "ffn_up.weight", (_FEED_FORWARD, _WIDTH)
    yield "ffn_down.weight", (_WIDTH, _FEED_FORWARD)
