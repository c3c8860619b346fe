"""Tiny models of random weights, one of each kind of memory, with a vocabulary of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from tailrace.engine.kernels.proofs.random_weights import random_weights

#: Architectures by the kind of their memory.
ARCHITECTURES = {"dense": "llama", "sliding": "gemma2", "recurrent": "mamba", "hybrid": "lfm2"}

_WIDTH, _FEED_FORWARD, _HEAD, _LAYERS, _CONTEXT = 64, 128, 32, 2, 2048
_INNER, _STATE, _CONVOLUTION, _RANK = 128, 16, 4, 4
# A multiple of 16, which the rows of repacked weights are.
_WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"<{word}>" for word in range(13))]


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
    _add_vocabulary(writer)
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


def tiny_experts(folder: Path, *, dense: str, experts: str) -> Path:
    """The file of a mixture of experts with its weights in these formats."""
    width, feed_forward, count = 256, 512, 4
    path = folder / f"experts-{dense}-{experts}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(count)
    writer.add_expert_used_count(2)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{dense}" + ("_M" if dense == "Q4_K" else "")])
    _add_vocabulary(writer)
    random = np.random.default_rng(3)

    def add(name: str, kind: str, rows: int, numbers: int, *shape: int) -> None:
        weights = random_weights(gguf.GGMLQuantizationType[kind], random, int(np.prod(shape, initial=rows)), numbers)
        writer.add_tensor(name, weights.reshape(*shape, rows, -1), raw_dtype=gguf.GGMLQuantizationType[kind])

    def add_plain(name: str, *shape: int) -> None:
        numbers = np.ones(shape) if len(shape) == 1 else random.standard_normal(shape)
        writer.add_tensor(name, numbers.astype(np.float32))

    add_plain("token_embd.weight", len(_WORDS), width)
    add_plain("output_norm.weight", width)
    add("output.weight", dense, len(_WORDS), width)
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        add_plain(f"{block}.attn_norm.weight", width)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{name}.weight", dense, width, width)
        add_plain(f"{block}.ffn_norm.weight", width)
        add_plain(f"{block}.ffn_gate_inp.weight", count, width)
        add(f"{block}.ffn_gate_exps.weight", experts, feed_forward, width, count)
        add(f"{block}.ffn_up_exps.weight", experts, feed_forward, width, count)
        add(f"{block}.ffn_down_exps.weight", experts, width, feed_forward, count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(_WORDS)
    writer.add_token_scores([0.0] * len(_WORDS))
    writer.add_token_types([2, 3, 3, *[6] * 256, *[5] * 13])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


#: The template of ``tiny_reranker``, in the form of Qwen3-Reranker's.
RERANK_TEMPLATE = "<s>Judge.\n<Query>: {query}\n<Document>: {document}</s><s>"


def tiny_reranker(folder: Path) -> Path:
    """The file of a reranker that is a causal language model, as Qwen3-Reranker is: a template, and a classifier of
    two labels behind the last token.
    """
    path = folder / "tiny-reranker.gguf"
    heads = _WIDTH // _HEAD
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(["yes", "no"])
    writer.add_chat_template([{"name": "rerank", "template": RERANK_TEMPLATE}])
    _add_vocabulary(writer)
    random = np.random.default_rng(3)
    norms = [f"blk.{layer}.{name}" for layer in range(_LAYERS) for name in ("attn_q_norm", "attn_k_norm")]
    shapes = [*_tensors("dense"), *((f"{name}.weight", (_HEAD,)) for name in norms), ("cls.output.weight", (2, _WIDTH))]
    for name, shape in shapes:
        numbers = np.ones(shape) if len(shape) == 1 else random.standard_normal(shape) / np.sqrt(shape[-1])
        writer.add_tensor(name, numbers.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
