"""all-MiniLM-L6-v2 twice: converted to GGUF, and computed from its safetensors by NumPy, as the original is.

The converter writes what llama.cpp's own converter writes for a BERT: its names of tensors, and WordPiece pieces with a
mark at the start of words instead of one at their continuations. The forward pass follows the model's configuration (6
layers, 12 heads, exact GELU, layer normalisation after each part) and shares no code with the server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import setup_minilm

Array = npt.NDArray[np.float32]
WeightType = Literal["F32", "F16", "Q8_0"]

LAYERS, HEADS, WIDTH, INNER, CONTEXT, EPSILON = 6, 12, 384, 1536, 512, 1e-12
CLS, SEP = 101, 102
_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


@cache
def weights() -> dict[str, Array]:
    """The original's tensors."""
    return dict(load_file(setup_minilm.fetched() / "model.safetensors"))


@cache
def tokenizer() -> Tokenizer:
    """The original's tokenizer, which neither cuts nor pads."""
    loaded = Tokenizer.from_file(str(setup_minilm.fetched() / "tokenizer.json"))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


@cache
def head() -> dict[str, Array]:
    """The classifier of a reranker on MiniLM's body: random weights, the same in each run. Its scores are spread over
    some units, so that ranks differ.
    """
    random = np.random.default_rng(15)
    return {
        "cls.weight": (random.standard_normal((WIDTH, WIDTH)) / math.sqrt(WIDTH)).astype(np.float32),
        "cls.bias": (0.1 * random.standard_normal(WIDTH)).astype(np.float32),
        "cls.output.weight": (8 * random.standard_normal((1, WIDTH)) / math.sqrt(WIDTH)).astype(np.float32),
        "cls.output.bias": np.array([0.25], np.float32),
    }


def write_minilm(path: Path, *, weight_type: WeightType = "F16", ranks: bool = False) -> Path:
    """The model as GGUF. ``ranks``: with the classifier of ``head``, and ranked by it instead of pooled."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if ranks else gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if weight_type == "F32" else f"MOSTLY_{weight_type}"])
    _add_vocabulary(writer)
    for name, tensor in _tensors():
        # Vectors and small tables stay in single precision, as in llama.cpp's own conversion.
        plain = tensor.ndim == 1 or name.startswith(("position_embd", "token_types"))
        kind = gguf.GGMLQuantizationType["F32" if plain else weight_type]
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    for name, tensor in head().items() if ranks else ():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    described = json.loads((setup_minilm.fetched() / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = sorted(described["model"]["vocab"], key=described["model"]["vocab"].__getitem__)
    special = {entry["content"] for entry in described["added_tokens"]}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece if piece in special else _marked(piece) for piece in pieces])
    writer.add_token_types([3 if piece in special else 1 for piece in pieces])
    writer.add_token_type_count(2)
    writer.add_bos_token_id(CLS)
    writer.add_eos_token_id(SEP)
    writer.add_sep_token_id(SEP)
    writer.add_unk_token_id(100)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(103)


def _marked(piece: str) -> str:
    return piece[2:] if piece.startswith("##") else f"\u2581{piece}"


def _tensors() -> Iterator[tuple[str, Array]]:
    original = weights()
    for name, converted in _EMBEDDINGS.items():
        yield converted, original[name]
    for layer in range(LAYERS):
        for name, converted in _PARTS.items():
            for kind in ("weight", "bias"):
                yield f"blk.{layer}.{converted}.{kind}", original[f"encoder.layer.{layer}.{name}.{kind}"]


def hidden_states(tokens: list[int]) -> Array:
    """The last hidden state of each token, shape (tokens, WIDTH)."""
    original = weights()
    rows = original["embeddings.word_embeddings.weight"][tokens]
    rows = rows + original["embeddings.position_embeddings.weight"][: len(tokens)]
    # All tokens are of sentence A: llama.cpp knows no other.
    rows = rows + original["embeddings.token_type_embeddings.weight"][0]
    rows = _normalised(rows, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        block = f"encoder.layer.{layer}"
        query, key, value = (
            _dense(rows, f"{block}.attention.self.{name}").reshape(len(tokens), HEADS, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(WIDTH // HEADS))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attended = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        attended = attended.transpose(1, 0, 2).reshape(len(tokens), WIDTH)
        rows = _normalised(
            rows + _dense(attended, f"{block}.attention.output.dense"), f"{block}.attention.output.LayerNorm"
        )
        inner = _dense(rows, f"{block}.intermediate.dense")
        inner = inner * np.float32(0.5) * (1 + _erf(inner / np.float32(math.sqrt(2))))
        rows = _normalised(rows + _dense(inner, f"{block}.output.dense"), f"{block}.output.LayerNorm")
    return rows


def _dense(rows: Array, name: str) -> Array:
    original = weights()
    return rows @ original[f"{name}.weight"].T + original[f"{name}.bias"]


def _normalised(rows: Array, name: str) -> Array:
    original = weights()
    centred = rows - rows.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
    found: Array = (scaled * original[f"{name}.weight"] + original[f"{name}.bias"]).astype(np.float32)
    return found


def _erf(numbers: Array) -> Array:
    """The error function, within 1.5e-7 (Abramowitz and Stegun, formula 7.1.26)."""
    inverse = 1 / (1 + 0.3275911 * np.abs(numbers))
    polynomial = np.polyval([1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0], inverse)
    found: Array = (np.sign(numbers) * (1 - polynomial * np.exp(-(numbers**2)))).astype(np.float32)
    return found


def tokens_of(text: str) -> list[int]:
    """The original tokenizer's tokens of a text, with those around it."""
    return list(tokenizer().encode(text).ids)


@cache
def vector(text: str) -> Array:
    """The original's embedding of a text: the mean of its hidden states, at length 1."""
    mean = hidden_states(tokens_of(text)).mean(axis=0)
    unit: Array = mean / np.linalg.norm(mean)
    return unit


@cache
def score(query: str, document: str) -> float:
    """What the reranker gives a document: the classifier's output at the first token of the pair."""
    parts = [tokenizer().encode(text, add_special_tokens=False).ids for text in (query, document)]
    return score_of([CLS, *parts[0], SEP, *parts[1], SEP])


def score_of(tokens: list[int]) -> float:
    """The classifier's output for a pair in tokens."""
    first = hidden_states(tokens)[0]
    dense = np.tanh(head()["cls.weight"] @ first + head()["cls.bias"])
    return float((head()["cls.output.weight"] @ dense + head()["cls.output.bias"])[0])
