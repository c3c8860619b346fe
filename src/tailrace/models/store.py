"""The local store: a folder for each model with its GGUF file. Files are moved into it atomically.

It doesn't fetch or verify (``fetch`` does) and doesn't read files (``model_header`` does).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.folders import cache_folder
from tailrace.models.shards import total_bytes

#: A name is one folder, without a separator or a leading dot, so it can't lead out of the store.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


#: The beginning of a workspace's name.
_WORKSPACE = ".fetching-"


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model in the store."""

    name: str
    path: Path  #: of several shards the first
    bytes: int  #: of all shards


def default_folder() -> Path:
    """``$TAILRACE_MODELS``, by default ``models`` in the user's cache folder."""
    named = os.environ.get("TAILRACE_MODELS")
    if named:
        return Path(named).expanduser()
    return cache_folder() / "models"


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, which ends with this process at the latest. Raises OSError where it is held."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_name(text: str) -> bool:
    """Whether ``text`` can be a model's name in the store."""
    return _NAME.fullmatch(text) is not None


class Store:
    """The models under one folder, which need not exist yet."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() if folder is None else folder

    def models(self) -> list[StoredModel]:
        """All models, sorted by name. Raises ModelError when the folder can't be read."""
        try:
            if not self.folder.exists():
                return []
            names = sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir() and is_name(entry.name))
        except OSError as error:
            raise ModelError(f"the model folder {self.folder} can't be read: {error}") from error
        return [model for model in map(self.find, names) if model is not None]

    def find(self, name: str) -> StoredModel | None:
        """The model of this name; None when there is none. Raises ModelError for an invalid name."""
        folder = self._folder(name)
        try:
            # Another process is still writing a hidden file.
            files = sorted(file for file in folder.glob("*.gguf") if file.is_file() and file.name[0] != ".")
            return StoredModel(name=name, path=files[0], bytes=total_bytes(files[0])) if files else None
        except OSError as error:
            raise ModelError(f"the model folder {folder} can't be read: {error}") from error

    def target(self, name: str, file: str) -> Path:
        """The path for a model's file. Raises ModelError for names that would lead out of the store."""
        if not is_name(file) or not file.endswith(".gguf"):
            raise ModelError(f"{file!r} can't be a model's file: use letters, digits, dots and dashes, ending in .gguf")
        return self._folder(name) / file

    def add(self, name: str, file: str, source: Path) -> StoredModel:
        """Move a complete file, which is on the store's file system, into the store; replaces an older one atomically.

        Raises ModelError when the disk can't be written.
        """
        target = self.target(name, file)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
            return StoredModel(name=name, path=target, bytes=target.stat().st_size)
        except OSError as error:
            raise ModelError(
                f"{target} can't be written: {error}. Make room or rights, or set TAILRACE_MODELS"
            ) from error

    def remove(self, name: str) -> bool:
        """Delete a model's files, and its folder if it is empty then; False when there is no such model.

        Raises ModelError for an invalid name, when the folder is a link, and when the files can't be deleted.
        """
        if self.find(name) is None:
            return False
        folder = self._folder(name)
        if folder.is_symlink():
            raise ModelError(f"{folder} leads out of the store; delete what it points to by hand")
        try:
            for file in folder.glob("*.gguf"):
                if file.name[0] != ".":
                    file.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()
        except OSError as error:
            raise ModelError(f"{folder} can't be deleted: {error}. Correct its rights") from error
        return True

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A temporary folder on the store's file system, which is deleted afterwards. Raises ModelError.

        Its name starts with a dot, so a killed process leaves nothing that looks like a model. What it does leave, the
        next workspace deletes.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._delete_abandoned()
            temporary = tempfile.TemporaryDirectory(prefix=_WORKSPACE, dir=self.folder)
        except OSError as error:
            raise ModelError(
                f"the model folder {self.folder} can't be written: {error}. Correct its rights, or set TAILRACE_MODELS"
            ) from error
        with temporary as path, _lock(Path(path)):
            yield Path(path)

    def _delete_abandoned(self) -> None:
        """Delete the workspaces of processes that have died: each living one holds the lock on its own."""
        for path in self.folder.glob(f"{_WORKSPACE}*"):
            try:
                with _lock(path):
                    shutil.rmtree(path, ignore_errors=True)
            except OSError:
                continue  # It is in use, or gone meanwhile.

    def _folder(self, name: str) -> Path:
        if not is_name(name):
            raise ModelError(f"{name!r} can't be a model's name: use letters, digits, dots, dashes and underscores")
        return self.folder / name
