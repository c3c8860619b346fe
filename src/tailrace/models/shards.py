"""The files of one model: usually one, or shards that gguf-split has made, told by their names and headers.

Any shard may be named, and all of them are found beside it. Links keep their own names, because the files that a hub's
cache links to are called by their checksums.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.models.gguf_file import FileHeader, Tensor, Value, read_file

#: How llama.cpp names the shards of ``NAME``: their number, from 1 on, and how many there are.
_NAME = re.compile(r"(?P<name>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


class Shards(msgspec.Struct, frozen=True):
    """A model's files, and what their headers say together."""

    paths: tuple[Path, ...]  #: in order; the first is what llama.cpp loads the model by
    values: dict[str, Value]  #: of the first, which has all that concerns the model
    tensors: tuple[Tensor, ...]  #: of all


def shard_paths(path: Path) -> tuple[Path, ...]:
    """The files, in order, of the model that ``path`` is the file of, or any shard, as the name says: whether they are
    there, and what they are, isn't looked at.
    """
    found = _NAME.fullmatch(path.name)
    if found is None:
        return (path,)
    count = int(found["count"])
    if not 1 <= int(found["number"]) <= count:
        return (path,)
    return tuple(path.with_name(f"{found['name']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))


def model_name(path: Path) -> str:
    """What the model is called after its file: its stem, without the number of the shard."""
    found = _NAME.fullmatch(path.name)
    return path.stem if found is None else found["name"]


def total_bytes(path: Path) -> int:
    """The size of all files that are there of the model that ``path`` is the file of, or any shard. Raises OSError when
    ``path`` itself can't be looked at.
    """
    return sum(shard.stat().st_size for shard in shard_paths(path) if shard == path or shard.exists())


def read_shards(path: Path) -> Shards:
    """The files of the model that ``path`` is the file of, or any shard, all of them looked at.

    Raises ModelError, naming the file, when one is missing, isn't a whole GGUF file or is no shard of this model.
    """
    own = read_file(path)
    count = own.values.get("split.count")
    if not isinstance(count, int) or count <= 1:
        return Shards((path,), own.values, own.tensors)
    number = own.values.get("split.no")
    number = number + 1 if isinstance(number, int) else 0
    paths = shard_paths(path)
    if len(paths) != count or not 1 <= number <= count or paths[number - 1] != path:
        raise ModelError(
            f"{path} says that it is shard {number} of {count}, and its name doesn't: the others are found by names "
            f"that end in -{number:05}-of-{count:05}.gguf. Give it its own name back, and have the others beside it"
        )
    headers = [own if shard == path else _read(shard, index, count) for index, shard in enumerate(paths)]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    expected = headers[0].values.get("split.tensors.count")
    if isinstance(expected, int) and expected != len(tensors):
        raise ModelError(
            f"the {count} shards beside {path} have {len(tensors)} tensors together, and the model has {expected}: "
            "some are of another model. Fetch or copy all of them again"
        )
    return Shards(paths, headers[0].values, tensors)


def _read(path: Path, index: int, count: int) -> FileHeader:
    """The shard with this index."""
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
