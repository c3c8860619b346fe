"""Summaries of headers that were read before, so that a list of many models is quick.

An entry counts while the sizes and the modification times of the model's files are what they were. The cache is one
file in the user's cache folder. Losing it costs only time.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.folders import cache_folder
from tailrace.models.file_replacement import replace_file
from tailrace.models.model_header import read_header
from tailrace.models.model_summary import ModelSummary, summarise
from tailrace.models.shards import shard_paths

#: Changes whenever a summary has other fields, or is made otherwise.
_VERSION = 2
_MAX_ENTRIES = 2000
_MAX_BYTES = 128 * 1024 * 1024


class _Entry(msgspec.Struct, frozen=True):
    files: tuple[tuple[int, int], ...]  #: size and modification time in nanoseconds, of each file
    summary: ModelSummary | None
    error: str = ""  #: why the header can't be read


class _Content(msgspec.Struct):
    version: int = _VERSION
    entries: dict[str, _Entry] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[_Content] = msgspec.msgpack.Decoder(_Content)


class HeaderCache:
    """See the module. ``save`` writes what was read anew."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = cache_folder() / "headers.msgpack" if file is None else file
        self._known = self._load()
        self._used: dict[str, _Entry] = {}
        self._changed = False

    def summary(self, path: Path) -> ModelSummary:
        """The summary of the model with the file ``path``, of several shards the first. Raises ModelError."""
        files = _states(path)
        entry = self._known.get(str(path))
        if entry is None or entry.files != files:
            entry = _read(path, files)
            self._changed = True
        self._used[str(path)] = entry
        if entry.summary is None:
            raise ModelError(entry.error)
        return entry.summary

    def save(self) -> None:
        """Write the cache if it has changed. Without room or rights it stays as it was."""
        if not self._changed:
            return
        # The entries in use come first, so that those of deleted models are dropped.
        entries = {**self._used, **{path: entry for path, entry in self._known.items() if path not in self._used}}
        data = _encoder.encode(_Content(entries=dict(list(entries.items())[:_MAX_ENTRIES])))
        with contextlib.suppress(OSError):
            replace_file(self._file, data)
        self._changed = False

    def _load(self) -> dict[str, _Entry]:
        try:
            with self._file.open("rb") as file:
                content = _decoder.decode(file.read(_MAX_BYTES))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}  # It isn't there, damaged, or of another version's form.
        return content.entries if content.version == _VERSION else {}


def _states(path: Path) -> tuple[tuple[int, int], ...]:
    """The size and time of each file; of a missing one zeros. Raises ModelError where ``path`` can't be read."""
    states: list[tuple[int, int]] = []
    for shard in shard_paths(path):
        try:
            found = shard.stat()
        except OSError as error:
            if shard == path:
                raise ModelError(f"{path} can't be read: {error.strerror}") from error
            states.append((0, 0))
        else:
            states.append((found.st_size, found.st_mtime_ns))
    return tuple(states)


def _read(path: Path, files: tuple[tuple[int, int], ...]) -> _Entry:
    # The state was read before the header, so a change meanwhile makes the entry old at once.
    try:
        entry = _Entry(files, summarise(read_header(path)))
        _encoder.encode(entry)
    except ModelError as error:
        return _Entry(files, None, str(error))
    except OverflowError:  # A product of its sizes has more than 64 bits.
        return _Entry(files, None, f"{path} has the sizes of no model. Fetch or copy it again")
    return entry
