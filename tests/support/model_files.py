"""Makes small GGUF files and wheels around them, for tests. Written out by hand, to be free to write them wrongly."""

from __future__ import annotations

import functools
import hashlib
import struct
import zipfile
from pathlib import Path

import gguf
import numpy as np

from tailrace.models.catalogue import CatalogueModel, PackageFile

UINT32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    """A GGUF string."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, raw: bytes) -> bytes:
    """A key with its value."""
    return text(key) + struct.pack("<I", kind) + raw


def tiny_gguf(*, extra: tuple[bytes, ...] = (), version: int = 3, weights: bytes = bytes(24 * 4)) -> bytes:
    """A whole GGUF file: one tensor of 6 x 4 float32 weights, a vocabulary of three words and a context of 2048."""
    pairs = [
        pair("general.architecture", STRING, text("llama")),
        pair("general.name", STRING, text("Tiny")),
        pair("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 3) + text("a") + text("b") + text("ü")),
        pair("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ", UINT32, 3) + bytes(12)),
        pair("general.file_type", UINT32, struct.pack("<I", 15)),
        pair("llama.context_length", UINT32, struct.pack("<I", 2048)),
        *extra,
    ]
    tensor = text("token_embd.weight") + struct.pack("<I2QIQ", 2, 6, 4, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", version, 1, len(pairs)) + b"".join(pairs) + tensor
    return header + bytes(-len(header) % 32) + weights


def split(source: Path, folder: Path, count: int, name: str = "model") -> list[Path]:
    """The model of the file ``source`` as so many shards in ``folder``, as gguf-split makes them."""
    reader = gguf.GGUFReader(source)
    shards = [folder / f"{name}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    for index, path in enumerate(shards):
        architecture = reader.fields["general.architecture"].contents()
        writer = gguf.GGUFWriter(path, architecture)
        for key, field in reader.fields.items() if not index else ():
            if not key.startswith("GGUF.") and key != "general.architecture":
                array = len(field.types) > 1
                writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if array else None)
        if index:
            # Only the first one tells of the model.
            del writer.kv_data[0]["general.architecture"]
        writer.add_uint16("split.no", index)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[len(reader.tensors) * index // count : len(reader.tensors) * (index + 1) // count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return shards


def hub_cache(folder: Path, files: list[Path]) -> list[Path]:
    """Links to ``files`` as the hub's cache has them: a snapshot of links to blobs that are called by checksums."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0f3a"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    links = []
    for file in files:
        blob = file.rename(blobs / hashlib.sha256(file.name.encode()).hexdigest())
        links.append(snapshot / file.name)
        links[-1].symlink_to(Path("..") / ".." / "blobs" / blob.name)
    return links


def write_wheel(folder: Path, package: str, version: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts, with these members."""
    stem = package.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    files = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    return path


def tiny_entry(whole: bytes, *parts: PackageFile) -> CatalogueModel:
    """A catalogue entry named ``tiny`` whose parts make up ``whole``."""
    digest = hashlib.sha256(whole).hexdigest()
    return CatalogueModel(name="tiny", file="tiny.gguf", parts=parts, bytes=len(whole), sha256=digest, licence="MIT")


def with_pairs(source: Path, target: Path, pairs: dict[str, int], *, pre: str | None = None) -> Path:
    """A copy of the model at ``source`` whose header has these numbers too, and this pre-tokenizer."""
    data = source.read_bytes()
    begin, end, last, described = _places(source)
    added = b"".join(pair(key, UINT32, struct.pack("<I", value)) for key, value in pairs.items())
    version, count, fields = struct.unpack("<IQQ", data[4:24])
    header = b"GGUF" + struct.pack("<IQQ", version, count, fields + len(pairs)) + data[24:begin]
    header += (data[begin:end] if pre is None else _pre(pre)) + data[end:last] + added + data[last:described]
    target.write_bytes(header + bytes(-len(header) % 32) + data[described + -described % 32 :])
    return target


def write_bert(path: Path, *, width: int = 32, context: int = 64) -> Path:
    """A BERT of one layer with random weights: it attends in both directions and is pooled by its first token."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"\u2581{word}" for word in ["the", "cat", "sat", "on", "a", "mat", "dog", "runs", "fast", ",", "."]]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.CLS)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types([3] * 5 + [1] * (len(words) - 5))
    writer.add_token_type_count(2)
    for name, token in (("bos", 2), ("eos", 3), ("unk", 1), ("sep", 3), ("pad", 0), ("mask", 4)):
        getattr(writer, f"add_{name}_token_id")(token)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(words), width),
        "position_embd": (context, width),
        "token_types": (2, width),
    }
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{name}"] = (width, width)
    shapes |= {"blk.0.ffn_up": (2 * width, width), "blk.0.ffn_down": (width, 2 * width)}
    shapes |= dict.fromkeys(("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"), (width,))
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (0.3 * random.standard_normal(shape)).astype(np.float32))
        if "types" not in name and name not in ("token_embd", "position_embd"):
            writer.add_tensor(f"{name}.bias", (0.3 * random.standard_normal(shape[0])).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_pre(source: Path, target: Path, pre: str) -> Path:
    """The vocabulary of the model at ``source`` with another pre-tokenizer, and no weights."""
    data = source.read_bytes()
    begin, end, last, _ = _places(source)
    target.write_bytes(data[:8] + bytes(8) + data[16:begin] + _pre(pre) + data[end:last])
    return target


@functools.cache
def _places(source: Path) -> tuple[int, int, int, int]:
    """Where the pre-tokenizer's pair begins and ends, and where the last pair and the tensors' descriptions end.

    The gguf package's reader takes seconds for it.
    """
    data = source.read_bytes()
    key = text("tokenizer.ggml.pre")
    tensors, count = struct.unpack_from("<QQ", data, 8)
    begin = end = 0
    at = 24
    for _ in range(count):
        start = at
        at = _behind(data, at, STRING)
        at = _behind(data, at + 4, *struct.unpack_from("<I", data, at))
        if data.startswith(key, start):
            begin, end = start, at
    last = at
    for _ in range(tensors):
        at = _behind(data, at, STRING)
        at += 4 + 8 * int(struct.unpack_from("<I", data, at)[0]) + 12
    return begin or last, end or last, last, at


def _behind(data: bytes, at: int, kind: int) -> int:
    """Where the value of this kind, which begins at ``at``, ends."""
    if kind == STRING:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != ARRAY:
        return at + (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8)[kind]
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    for _ in range(count):
        at = _behind(data, at, inner)
    return at


def _pre(pre: str) -> bytes:
    return pair("tokenizer.ggml.pre", STRING, text(pre))


def write_vocab(
    path: Path, kind: str, tokens: list[tuple[str, float, int]], *, name: str = "vocabulary", **ids: int
) -> Path:
    """A vocabulary of this ``kind`` (``tokenizer.ggml.model``): texts, scores and types. ``ids`` are the file's own
    numbers and flags, such as ``bos_token_id`` and ``add_eos_token``.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("default")
    writer.add_token_list([word for word, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([type_ for _, _, type_ in tokens])
    for key, value in ids.items():
        if key.startswith("add_"):
            writer.add_bool(f"tokenizer.ggml.{key}", bool(value))
        else:
            writer.add_uint32(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
