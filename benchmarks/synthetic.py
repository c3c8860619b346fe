"""Writes models with random weights: realistic in speed and memory, meaningless as text.

    python -m benchmarks.synthetic large

They have llama's architecture and the vocabulary of another model's file, so any server loads them. Each file is
written once into the cache folder, tensor by tensor.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import numpy.typing as npt

from tailrace.folders import cache_folder
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL

#: Weights in a block of Q4_0, and its bytes: a 16-bit scale and four bits for each weight.
_BLOCK, _BLOCK_BYTES = 32, 18
_CONTEXT = 8192
#: Name suffixes of the tensors with a matrix for each expert, and of the router.
_EXPERT_SUFFIX, _ROUTER_SUFFIX = "_exps.weight", "ffn_gate_inp.weight"
_HEAD = 128


class Shape(msgspec.Struct, frozen=True):
    """The dimensions of a model."""

    layers: int
    embedding_length: int
    feed_forward: int
    kv_heads: int
    experts: int = 0  #: of a layer's feed-forward part; 0: dense
    experts_used: int = 0  #: by one token
    vocabulary_size: int = 0  #: 0: the size of the copied vocabulary


#: "steps" has steps of 20 ms and more on one or two cores; "large" is larger than the CPU's caches.
SHAPES = {
    "steps": Shape(layers=28, embedding_length=2048, feed_forward=5632, kv_heads=4),
    "large": Shape(layers=18, embedding_length=4096, feed_forward=14336, kv_heads=8),
    # 2.2 GB; a token reads an eighth of it.
    "experts": Shape(layers=18, embedding_length=1024, feed_forward=1024, kv_heads=2, experts=64, experts_used=8),
    "experts-small": Shape(layers=4, embedding_length=1024, feed_forward=1024, kv_heads=2, experts=64, experts_used=8),
    # Half of a step is the output matrix.
    "vocabulary": Shape(layers=6, embedding_length=2048, feed_forward=5632, kv_heads=4, vocabulary_size=262_144),
    "tiny": Shape(layers=1, embedding_length=256, feed_forward=512, kv_heads=1),
    "tiny-vocabulary": Shape(layers=1, embedding_length=256, feed_forward=512, kv_heads=1, vocabulary_size=65_536),
    "tiny-experts": Shape(layers=2, embedding_length=256, feed_forward=512, kv_heads=1, experts=8, experts_used=2),
}


def folder() -> Path:
    """The folder of the files."""
    return cache_folder() / "benchmarks"


def synthetic(name: str, vocabulary: Path, target: Path | None = None) -> Path:
    """The file of the model ``name`` of SHAPES, with the vocabulary of the file ``vocabulary``; written if missing."""
    path = target or folder() / f"synthetic-{name}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            _write(unfinished, name, SHAPES[name], gguf.GGUFReader(vocabulary))
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def _write(path: Path, name: str, shape: Shape, source: Any) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"synthetic {name}")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(shape.embedding_length)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.embedding_length // _HEAD)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
    words: list[str] = source.fields["tokenizer.ggml.tokens"].contents()
    more = [f"<unused {number}>" for number in range(shape.vocabulary_size - len(words))]
    # What each further word has in the lists that go word by word.
    fillers: dict[str, list[Any]] = {
        "tokens": more,
        "token_type": [int(gguf.TokenType.UNUSED)] * len(more),
        "scores": [0.0] * len(more),
    }
    words = words + more
    for key, field in source.fields.items():
        if key.startswith("tokenizer."):
            kind = field.types[0]
            value = field.contents()
            if more and key.rpartition(".")[2] in fillers:
                value = [*value, *fillers[key.rpartition(".")[2]]]
            writer.add_key_value(key, value, kind, sub_type=field.types[-1] if len(field.types) > 1 else None)
    silent = np.array([not _is_plain(word) for word in words])
    for title, rows, columns in _tensors(shape, len(words)):
        experts = (shape.experts,) if title.endswith(_EXPERT_SUFFIX) else ()
        if title.endswith(_ROUTER_SUFFIX):
            writer.add_tensor_info(title, (rows, columns), np.dtype(np.float32), 4 * rows * columns)
        elif columns:
            size = rows * columns // _BLOCK * _BLOCK_BYTES * (shape.experts if experts else 1)
            bytes_shape = (*experts, rows, columns // _BLOCK * _BLOCK_BYTES)
            writer.add_tensor_info(title, bytes_shape, np.dtype(np.uint8), size, gguf.GGMLQuantizationType.Q4_0)
        else:
            writer.add_tensor_info(title, (rows,), np.dtype(np.float32), 4 * rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    for title, rows, columns in _tensors(shape, len(words)):
        if title.endswith(_ROUTER_SUFFIX):
            writer.write_tensor_data(random.standard_normal((rows, columns)).astype(np.float32))
        elif title.endswith(_EXPERT_SUFFIX):
            blocks = np.stack([_random_blocks(random, rows, columns) for _ in range(shape.experts)])
            writer.write_tensor_data(blocks)
        elif columns:
            blocks = _random_blocks(random, rows, columns)
            if title == "output.weight":
                # A logit of 0 never wins: only whole characters are written, each reply runs on, and every token is
                # seen by a client that counts texts.
                blocks[silent] = 0
            writer.write_tensor_data(blocks)
        else:
            writer.write_tensor_data(np.ones(rows, np.float32))
    writer.close()


def _tensors(shape: Shape, words: int) -> Iterator[tuple[str, int, int]]:
    """Name, rows and columns of each (of each expert); 0 columns are a vector of ones."""
    kv = shape.kv_heads * _HEAD
    yield "token_embd.weight", words, shape.embedding_length
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", shape.embedding_length, 0
        yield f"{block}.attn_q.weight", shape.embedding_length, shape.embedding_length
        yield f"{block}.attn_k.weight", kv, shape.embedding_length
        yield f"{block}.attn_v.weight", kv, shape.embedding_length
        yield f"{block}.attn_output.weight", shape.embedding_length, shape.embedding_length
        yield f"{block}.ffn_norm.weight", shape.embedding_length, 0
        kind = "_exps" if shape.experts else ""
        if shape.experts:
            yield f"{block}.ffn_gate_inp.weight", shape.experts, shape.embedding_length
        yield f"{block}.ffn_gate{kind}.weight", shape.feed_forward, shape.embedding_length
        yield f"{block}.ffn_up{kind}.weight", shape.feed_forward, shape.embedding_length
        yield f"{block}.ffn_down{kind}.weight", shape.embedding_length, shape.feed_forward
    yield "output_norm.weight", shape.embedding_length, 0
    yield "output.weight", words, shape.embedding_length


def _random_blocks(random: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Q4_0 weights whose outputs are about as large as their inputs: 4-bit values have a deviation of 4.6."""
    blocks = np.empty((rows, columns // _BLOCK, _BLOCK_BYTES), np.uint8)
    blocks[:, :, 2:] = random.integers(0, 256, blocks[:, :, 2:].shape, np.uint8)
    blocks[:, :, :2] = np.frombuffer(np.float16(1 / (4.6 * columns**0.5)).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def _is_plain(word: str) -> bool:
    """Whether a token is ASCII letters, perhaps after a space (which byte-level vocabularies write as Ġ)."""
    letters = word.removeprefix("Ġ").removeprefix("▁")
    return letters.isascii() and letters.isalpha()


def main() -> None:
    """Write one and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic", description="Write a model of random weights."
    )
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("--vocabulary", default=STARTER_MODEL, help="a GGUF file or a name in the store")
    options = parser.parse_args()
    print(synthetic(options.name, locate_model(options.vocabulary).path))


if __name__ == "__main__":
    main()
