"""Tiny models of random weights, one of each kind of memory, with a vocabulary of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import msgspec
import numpy as np

from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.vocabulary import byte_vocabulary
from benchmarks.synthetic.write_model import write_model
from tailrace.engine.kernels.proofs.random_weights import random_weights

#: The shapes of tiny models by the kind of their memory.
_SHAPES = {
    "dense": "tiny",
    "sliding": "tiny-gemma2",
    "recurrent": "tiny-mamba",
    "hybrid": "tiny-lfm2",
    "delta-net": "tiny-qwen35",
    "state-space": "tiny-granite-hybrid",
}
#: Their architectures.
ARCHITECTURES = {kind: SHAPES[shape].architecture for kind, shape in _SHAPES.items()}

_WIDTH, _FEED_FORWARD, _HEAD, _LAYERS, _CONTEXT = 64, 128, 32, 2, 2048
_VOCABULARY = byte_vocabulary()
_WORDS = _VOCABULARY.words


def tiny_model(kind: str, folder: Path, **dimensions: int) -> Path:
    """The file of a model of this kind of memory with 32-bit weights, made in ``folder``. ``dimensions`` replace the
    shape's.
    """
    path = folder / f"tiny-{kind}.gguf"
    shape = msgspec.structs.replace(SHAPES[_SHAPES[kind]], **dimensions)
    write_model(path, kind, shape, _VOCABULARY, "F32")
    return path


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
    _VOCABULARY.add_to(writer)
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
    _VOCABULARY.add_to(writer)
    random = np.random.default_rng(3)
    norms = [f"blk.{layer}.{name}" for layer in range(_LAYERS) for name in ("attn_q_norm", "attn_k_norm")]
    shapes = [*_tensors(), *((f"{name}.weight", (_HEAD,)) for name in norms), ("cls.output.weight", (2, _WIDTH))]
    for name, shape in shapes:
        numbers = np.ones(shape) if len(shape) == 1 else random.standard_normal(shape) / np.sqrt(shape[-1])
        writer.add_tensor(name, numbers.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a dense model without an output matrix, rows first."""
    yield "token_embd.weight", (len(_WORDS), _WIDTH)
    yield "output_norm.weight", (_WIDTH,)
    for layer in range(_LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{name}.weight", (_WIDTH, _WIDTH)
        yield f"blk.{layer}.attn_norm.weight", (_WIDTH,)
        yield f"blk.{layer}.ffn_norm.weight", (_WIDTH,)
        yield f"blk.{layer}.ffn_gate.weight", (_FEED_FORWARD, _WIDTH)
        yield f"blk.{layer}.ffn_up.weight", (_FEED_FORWARD, _WIDTH)
        yield f"blk.{layer}.ffn_down.weight", (_WIDTH, _FEED_FORWARD)
