"""The fingerprint of a model file or its shards: the key of stored records. It takes milliseconds at any size."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tailrace.errors import ModelError
from tailrace.models.shards import shard_paths

#: Samples, spread evenly from the file's first byte to its last, and bytes of each.
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024


def fingerprint(path: Path) -> str:
    """A SHA-256 of the model's size and of samples of it (4 MB), as 32 hexadecimal digits. Shards count as one file.

    A model that was trained further differs everywhere, so samples are enough to tell models apart. They don't protect
    against a file that is made to have the same fingerprint. Raises ModelError when the file can't be read.
    """
    try:
        shards = [shard for shard in shard_paths(path) if shard == path or shard.exists()]
        sizes = [shard.stat().st_size for shard in shards]
        digest = hashlib.sha256(str(sum(sizes)).encode())
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(shard.open("rb")) for shard in shards]
            for sample in range(_SAMPLES):
                digest.update(_read(files, sizes, max(0, sum(sizes) - _SAMPLE_BYTES) * sample // (_SAMPLES - 1)))
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    return digest.hexdigest()[:32]


def _read(files: Sequence[BinaryIO], sizes: Sequence[int], at: int) -> bytes:
    """Up to ``_SAMPLE_BYTES`` bytes from ``at`` on, of the concatenated files."""
    data = b""
    for file, size in zip(files, sizes, strict=True):
        if at < size and len(data) < _SAMPLE_BYTES:
            file.seek(at)
            data += file.read(_SAMPLE_BYTES - len(data))
        at = max(0, at - size)
    return data
