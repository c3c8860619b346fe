"""The store of converted model files: their paths, their records, and a lock so that one process writes each file.

It checks that a file is still as it was written, and that the disk has enough free space. It converts nothing itself:
``engine.weights`` writes into the path that ``reserve_target`` gives.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.models.conversion_formats import ConversionFormat
from tailrace.models.file_fingerprint import fingerprint
from tailrace.models.format_comparison import FormatComparison
from tailrace.models.model_header import read_facts
from tailrace.models.store import default_folder

#: Free space that is required, as a multiple of the file's expected size.
_FREE_SPACE_FACTOR = 1.1
#: Keys in a record's file, which older versions of this program have written.
_RECORD_KEYS = {"weight_format": "recipe", "comparison": "measures"}


class ConvertedFile(msgspec.Struct, frozen=True, kw_only=True, rename=_RECORD_KEYS):
    """A converted file, and its comparison with the original where that has been measured."""

    path: Path
    weight_format: ConversionFormat
    bytes: int
    bytes_before: int  #: size of the original
    seconds: float  #: duration of the conversion
    comparison: FormatComparison | None = None


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """The record beside a converted file."""

    mtime_ns: int  #: of the file when it was written: a file that has changed since isn't used
    conversion: ConvertedFile


class ConvertedFiles:
    """The converted files of one folder, which need not exist yet."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` None is ``.converted`` in the model store: a model's name can't begin with a dot there."""
        self.folder = default_folder() / ".converted" if folder is None else folder

    def find(self, source: Path, weight_format: ConversionFormat) -> ConvertedFile | None:
        """The file that ``source`` was converted to; None when there is none, or when it has changed since.

        Raises ModelError when ``source`` can't be read.
        """
        folder = self._folder_of(source, weight_format)
        try:
            record = msgspec.json.decode((folder / "facts.json").read_bytes(), type=_Record, dec_hook=_convert_path)
            stat = (folder / _file_name(source, weight_format)).stat()
        except (OSError, msgspec.MsgspecError):
            return None  # Absent or damaged: it is converted again.
        if (stat.st_size, stat.st_mtime_ns) != (record.conversion.bytes, record.mtime_ns):
            return None
        if record.conversion.weight_format != weight_format:
            return None  # An earlier version gave the name another meaning.
        return msgspec.structs.replace(record.conversion, path=folder / _file_name(source, weight_format))

    @contextmanager
    def reserve_target(
        self, source: Path, weight_format: ConversionFormat, waiting: Callable[[], None]
    ) -> Iterator[Path]:
        """Hold the lock on this conversion; yields the path to write to. Call ``add`` before leaving.

        Calls ``waiting`` when another process holds the lock: that process may have made the file, so call ``find``
        after entering. Raises ModelError when the disk has too little free space or can't be written.
        """
        folder = self._folder_of(source, weight_format)
        needed = int(read_facts(source).parameters * weight_format.bits / 8 * _FREE_SPACE_FACTOR)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("w")
        except OSError as error:
            raise ModelError(
                f"{folder} can't be written: {error}. Correct its rights, or set TAILRACE_MODELS"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            target = folder / f".{_file_name(source, weight_format)}"
            target.unlink(missing_ok=True)  # A killed process may have left it.
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise ModelError(
                    f"{weight_format.name} of {source.name} takes about {needed / 1e9:.1f} GB, and {folder} has "
                    f"{free / 1e9:.1f} GB free. Make room, or set TAILRACE_MODELS to a folder on another disk"
                )
            try:
                yield target
            finally:
                target.unlink(missing_ok=True)

    def add(self, source: Path, converted: ConvertedFile) -> ConvertedFile:
        """Move the written file ``converted.path`` into the store and write its record; returns it with its new path.

        Raises ModelError when the disk can't be written.
        """
        folder = self._folder_of(source, converted.weight_format)
        path = folder / _file_name(source, converted.weight_format)
        try:
            os.replace(converted.path, path)
            return self.write_record(source, msgspec.structs.replace(converted, path=path))
        except OSError as error:
            raise ModelError(
                f"{path} can't be written: {error}. Make room or rights, or set TAILRACE_MODELS"
            ) from error

    def write_record(self, source: Path, converted: ConvertedFile) -> ConvertedFile:
        """Write the record of a file in the store, atomically."""
        folder = self._folder_of(source, converted.weight_format)
        record = _Record(mtime_ns=converted.path.stat().st_mtime_ns, conversion=converted)
        draft = folder / ".facts.json"
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(record, enc_hook=str)))
        os.replace(draft, folder / "facts.json")
        return converted

    def remove(self, source: Path, weight_format: ConversionFormat) -> None:
        """Delete the converted file and its record; nothing happens when there is none."""
        shutil.rmtree(self._folder_of(source, weight_format), ignore_errors=True)

    def _folder_of(self, source: Path, weight_format: ConversionFormat) -> Path:
        # Another version of llama.cpp may convert to other values.
        return self.folder / fingerprint(source) / f"{weight_format.name}-{version('llama-cpp-python')}"


def _file_name(source: Path, weight_format: ConversionFormat) -> str:
    return f"{source.stem}.{weight_format.name}.gguf"


def _convert_path(kind: type, value: object) -> object:
    return kind(value)
