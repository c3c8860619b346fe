"""Finds the .gguf files below a folder, within bounds. It follows links, and opens no file.

Hidden names are left out, and so are broken links. A folder is entered once, however many links lead to it.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

import msgspec

from tailrace.models.quant_choice import FileSize

#: Bounds of one walk.
MAX_FILES = 10_000
_MAX_ENTRIES = 200_000
_MAX_DEPTH = 12
_MAX_PROBLEMS = 20


class FolderFiles(msgspec.Struct, frozen=True):
    """The files that a walk has found."""

    files: tuple[FileSize, ...]  #: sorted by path, which is relative to the folder
    problems: tuple[str, ...] = ()


def gguf_files(folder: Path) -> FolderFiles:
    """The .gguf files below ``folder``, which need not exist. Folders that can't be read are problems, not errors."""
    files: list[FileSize] = []
    problems: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting: deque[tuple[str, int]] = deque([("", 0)])
    entries = 0
    while waiting:
        below, depth = waiting.popleft()
        try:
            facts = (folder / below).stat()
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(folder / below) as found:
                for entry in found:
                    entries += 1
                    if entries > _MAX_ENTRIES or len(files) >= MAX_FILES:
                        problems.append(f"{folder} has too many files: those after the first {len(files)} are left out")
                        return _sorted(files, problems)
                    if entry.name.startswith(".") or not entry.name.isprintable():
                        continue
                    path = f"{below}/{entry.name}" if below else entry.name
                    if entry.name.lower().endswith(".gguf"):
                        size = _size(entry)
                        if size is not None:
                            files.append(FileSize(path, size))
                            continue
                    if depth < _MAX_DEPTH and _is_folder(entry):
                        waiting.append((path, depth + 1))
        except FileNotFoundError:
            continue  # It was never there, or is gone meanwhile.
        except OSError as error:
            if len(problems) < _MAX_PROBLEMS:
                problems.append(f"{folder / below} can't be read: {error.strerror}")
    return _sorted(files, problems)


def _sorted(files: list[FileSize], problems: list[str]) -> FolderFiles:
    return FolderFiles(tuple(sorted(files, key=lambda file: file.path)), tuple(problems))


def _size(entry: os.DirEntry[str]) -> int | None:
    """A regular file's size; None for anything else, such as a broken link."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except OSError:
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link that leads to itself.
        return False
