"""Which model a file or its shards hold, told in milliseconds however large it is: what is remembered of a model hangs
on this.

Owns the fingerprint and nothing that is remembered under it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tailrace.errors import ModelError
from tailrace.models.shards import shard_paths

#: How many places of a file are looked at, spread evenly from its first byte to its last, and bytes at each.
_PLACES = 64
_BYTES = 64 * 1024


def fingerprint(path: Path) -> str:
    """A SHA-256 over the model's size and 64 places of it, as 32 hexadecimal digits: 4 MB read of any model. Shards
    count as one file after the other.

    The whole of a model that is no larger than that. Weights that were trained further differ everywhere, so a place
    that isn't looked at doesn't matter; it is no protection against somebody who wants two files to look the same.
    Raises ModelError when the file can't be read.
    """
    try:
        shards = [shard for shard in shard_paths(path) if shard == path or shard.exists()]
        sizes = [shard.stat().st_size for shard in shards]
        digest = hashlib.sha256(str(sum(sizes)).encode())
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(shard.open("rb")) for shard in shards]
            for place in range(_PLACES):
                digest.update(_read(files, sizes, max(0, sum(sizes) - _BYTES) * place // (_PLACES - 1)))
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    return digest.hexdigest()[:32]


def _read(files: Sequence[BinaryIO], sizes: Sequence[int], at: int) -> bytes:
    """``_BYTES`` from ``at`` on, of the files one after the other, or as many as there are."""
    data = b""
    for file, size in zip(files, sizes, strict=True):
        if at < size and len(data) < _BYTES:
            file.seek(at)
            data += file.read(_BYTES - len(data))
        at = max(0, at - size)
    return data
