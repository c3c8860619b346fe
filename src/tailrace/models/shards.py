"""The files of one model: usually one file, or shards that llama.cpp's gguf-split has made.

A user may name any shard; the others are found beside it by their names. Links aren't resolved, because a hub's cache
names the linked files by their checksums.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.models.gguf_file import FileHeader, Tensor, Value, read_file

#: The names that gguf-split gives to shards: the model's name, the shard's number from 1 on, and the count.
_NAME = re.compile(r"(?P<name>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


class ShardSet(msgspec.Struct, frozen=True):
    """A model's files, and their headers combined."""

    paths: tuple[Path, ...]  #: in order; llama.cpp loads a model by its first file
    values: dict[str, Value]  #: of the first file, which has all of the model's values
    tensors: tuple[Tensor, ...]  #: of all
    layer_values: dict[str, tuple[int, ...]]  #: of the first file


def shard_paths(path: Path) -> tuple[Path, ...]:
    """The paths of all shards of the model to which ``path`` belongs, in order, by the file's name alone.

    The files aren't read and need not exist.
    """
    found = _NAME.fullmatch(path.name)
    if found is None:
        return (path,)
    count = int(found["count"])
    if not 1 <= int(found["number"]) <= count:
        return (path,)
    return tuple(path.with_name(f"{found['name']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))


def shard_number(path: str) -> tuple[str, int, int]:
    """A relative path without the shard's number and ``.gguf``, the number from 1 on, and the count of shards.

    By the name alone: a model of one file is shard 1 of 1.
    """
    folder, slash, file = path.rpartition("/")
    found = _NAME.fullmatch(file)
    if found is None or not 1 <= int(found["number"]) <= int(found["count"]):
        return path[: -len(".gguf")] if path.lower().endswith(".gguf") else path, 1, 1
    return f"{folder}{slash}{found['name']}", int(found["number"]), int(found["count"])


def model_name(path: Path) -> str:
    """The model's name: the file's stem without the shard's number."""
    found = _NAME.fullmatch(path.name)
    return path.stem if found is None else found["name"]


def total_bytes(path: Path) -> int:
    """The size of all existing files of ``path``'s model. Raises OSError when ``path`` can't be read."""
    return sum(shard.stat().st_size for shard in shard_paths(path) if shard == path or shard.exists())


def read_shards(path: Path) -> ShardSet:
    """The files of the model to which ``path`` belongs, with all headers read.

    Raises ModelError with the file's name when a shard is missing, incomplete or belongs to another model.
    """
    own = read_file(path)
    count = own.values.get("split.count")
    if not isinstance(count, int) or count <= 1:
        return ShardSet((path,), own.values, own.tensors, own.layer_values)
    number = own.values.get("split.no")
    number = number + 1 if isinstance(number, int) else 0
    paths = shard_paths(path)
    if len(paths) != count or not 1 <= number <= count or paths[number - 1] != path:
        raise ModelError(
            f"{path} says that it is shard {number} of {count}, and its name doesn't: the others are found by names "
            f"that end in -{number:05}-of-{count:05}.gguf. Give it its own name back, and have the others beside it"
        )
    headers = [own if shard == path else _read_shard(shard, index, count) for index, shard in enumerate(paths)]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    expected = headers[0].values.get("split.tensors.count")
    if isinstance(expected, int) and expected != len(tensors):
        raise ModelError(
            f"the {count} shards beside {path} have {len(tensors)} tensors together, and the model has {expected}: "
            "some are of another model. Fetch or copy all of them again"
        )
    return ShardSet(paths, headers[0].values, tensors, headers[0].layer_values)


def _read_shard(path: Path, index: int, count: int) -> FileHeader:
    """The header of the shard with this index, from 0 on."""
    if not path.exists():
        raise ModelError(f"shard {index + 1} of {count} is missing: there is no {path}. Fetch or copy it there")
    header = read_file(path)
    found = header.values.get("split.no"), header.values.get("split.count")
    if found != (index, count):
        says = f"shard {found[0] + 1} of {found[1]}" if isinstance(found[0], int) else "no shard at all"
        raise ModelError(
            f"{path} should be shard {index + 1} of {count}, and its header says that it is {says}. Fetch or copy it "
            "again"
        )
    return header
