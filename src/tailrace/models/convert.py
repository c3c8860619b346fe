"""The converted files that are kept: where each lies, whether it still is what was written, and who writes it.

Owns folder, lock, space and the facts beside each file. It converts nothing itself: ``engine`` writes into the place
that it is given here.
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
from tailrace.models.gguf import read_facts
from tailrace.models.identity import fingerprint
from tailrace.models.measures import Measures
from tailrace.models.recipes import Recipe
from tailrace.models.store import default_folder

#: The part of a file's expected size that has to be free.
_ROOM = 1.1


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """A converted file, and what was measured of it once it was."""

    path: Path
    recipe: Recipe
    bytes: int
    bytes_before: int
    seconds: float  #: that the conversion took
    measures: Measures | None = None


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """The facts beside a file."""

    mtime_ns: int  #: of the file when it was written: one that was changed since isn't used
    conversion: Conversion


class Conversions:
    """The converted files of one folder, which need not exist yet."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` None is a hidden one in the local store: a dot can't begin a model's name there."""
        self.folder = default_folder() / ".converted" if folder is None else folder

    def find(self, source: Path, recipe: Recipe) -> Conversion | None:
        """What ``source`` was converted to with ``recipe``; None when it wasn't, or when the file isn't whole and as it
        was written. Raises ModelError when ``source`` can't be read.
        """
        folder = self._place(source, recipe)
        try:
            record = msgspec.json.decode((folder / "facts.json").read_bytes(), type=_Record, dec_hook=_paths)
            stat = (folder / _file(source, recipe)).stat()
        except (OSError, msgspec.MsgspecError):
            return None  # Never made, or broken: it is made anew.
        if (stat.st_size, stat.st_mtime_ns) != (record.conversion.bytes, record.mtime_ns):
            return None
        if record.conversion.recipe != recipe:
            return None  # Of an earlier version, which meant something else by the name.
        return msgspec.structs.replace(record.conversion, path=folder / _file(source, recipe))

    @contextmanager
    def making(self, source: Path, recipe: Recipe, waiting: Callable[[], None]) -> Iterator[Path]:
        """A path to write the converted file to, while nobody else converts the same; ``keep`` it before leaving.

        Calls ``waiting`` when another process has to be waited for: look with ``find`` whether it made the file.
        Raises ModelError when the disk is too small or can't be written.
        """
        folder = self._place(source, recipe)
        needed = int(read_facts(source).parameters * recipe.bits / 8 * _ROOM)
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
            target = folder / f".{_file(source, recipe)}"
            target.unlink(missing_ok=True)  # Of a process that was killed.
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise ModelError(
                    f"{recipe.name} of {source.name} takes about {needed / 1e9:.1f} GB, and {folder} has "
                    f"{free / 1e9:.1f} GB free. Make room, or set TAILRACE_MODELS to a folder on another disk"
                )
            try:
                yield target
            finally:
                target.unlink(missing_ok=True)

    def keep(self, source: Path, conversion: Conversion) -> Conversion:
        """Move the written file ``conversion.path`` to its place and put the facts beside it; the one to use."""
        folder = self._place(source, conversion.recipe)
        path = folder / _file(source, conversion.recipe)
        try:
            os.replace(conversion.path, path)
            return self.note(source, msgspec.structs.replace(conversion, path=path))
        except OSError as error:
            raise ModelError(
                f"{path} can't be written: {error}. Make room or rights, or set TAILRACE_MODELS"
            ) from error

    def note(self, source: Path, conversion: Conversion) -> Conversion:
        """Write the facts of a file that is in its place, in one step."""
        folder = self._place(source, conversion.recipe)
        record = _Record(mtime_ns=conversion.path.stat().st_mtime_ns, conversion=conversion)
        draft = folder / ".facts.json"
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(record, enc_hook=str)))
        os.replace(draft, folder / "facts.json")
        return conversion

    def remove(self, source: Path, recipe: Recipe) -> None:
        """Forget what ``source`` was converted to with ``recipe``, file and facts."""
        shutil.rmtree(self._place(source, recipe), ignore_errors=True)

    def _place(self, source: Path, recipe: Recipe) -> Path:
        # Another version of llama.cpp may convert otherwise.
        return self.folder / fingerprint(source) / f"{recipe.name}-{version('llama-cpp-python')}"


def _file(source: Path, recipe: Recipe) -> str:
    return f"{source.stem}.{recipe.name}.gguf"


def _paths(kind: type, value: object) -> object:
    return kind(value)
