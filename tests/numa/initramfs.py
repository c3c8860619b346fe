"""The guest's file system: this interpreter, tailrace and what it needs, at the paths that they have here.

The kernel unpacks it into memory before it starts anything, so the guest needs no disk and no driver.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parents[2]
#: llama.cpp is compiled for this machine's CPU, which the emulated one isn't; pip is for fetching models.
_LEFT_OUT = {"llama-cpp-python", "pip", "tailrace"}
#: Parts of the standard library that no server needs.
_UNUSED = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "pydoc_data"}
_UNUSED_SUFFIXES = {".a", ".c", ".h", ".pyi", ".pxd"}


def write_initramfs(path: Path) -> None:
    """Write the archive (the kernel's "newc" cpio format, see its buffer-format.rst) to ``path``."""
    files = {*_interpreter(), *_packages(), *_tree(ROOT / "src"), Path(__file__).with_name("guest.py")}
    files = {file for file in files if file.suffix not in _UNUSED_SUFFIXES and "tests" not in file.parts[-3:]}
    files |= _libraries(files)
    with path.open("wb") as archive:
        _Writer(archive).write(sorted(files))


def _tree(folder: Path, unused: frozenset[str] = frozenset()) -> Iterator[Path]:
    for parent, names, files in os.walk(folder):
        names[:] = [name for name in names if name not in unused]
        yield from (Path(parent) / name for name in files)


def _interpreter() -> Iterator[Path]:
    """The virtual environment's and the real Python, and its standard library."""
    yield from _links(Path(sys.executable))
    yield Path(sys.prefix) / "pyvenv.cfg"
    yield Path(sys.executable).with_name("tailrace")
    yield from _tree(Path(sysconfig.get_path("stdlib")), frozenset(_UNUSED))


def _links(path: Path) -> Iterator[Path]:
    """``path``, and where it leads to, link by link."""
    while path.is_symlink():
        yield path
        path = path.parent / path.readlink()
    yield path.resolve()


def _packages() -> Iterator[Path]:
    """Every file of every distribution that tailrace's server needs."""
    wanted, seen = ["tailrace"], set(_LEFT_OUT)
    while wanted:
        name = wanted.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # Needed on another system or another Python only.
        wanted += [need for need in _needs(found) if need not in seen]
        seen |= {*wanted}
        if name != "tailrace":
            files = found.files or []
            yield from (path for file in files if (path := Path(str(found.locate_file(file))).resolve()).is_file())


def _needs(found: Distribution) -> Iterator[str]:
    for requirement in found.requires or []:
        if "extra ==" not in requirement and (name := re.match(r"[\w.-]+", requirement)):
            yield re.sub(r"[-_.]+", "-", name[0]).lower()


def _libraries(files: set[Path]) -> set[Path]:
    """The shared libraries that the files load, as the system's loader finds them."""
    binaries = [file for file in files if not file.is_symlink() and _is_elf(file)]
    shown = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    found: set[Path] = set()
    for name in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", shown, re.MULTILINE):
        found |= {*_links(Path(name)), Path(name)}
    return found


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


class _Writer:
    """Writes entries one after the other, folders before what lies in them."""

    def __init__(self, archive: BinaryIO) -> None:
        self._archive = archive
        self._number = 0
        self._folders: set[str] = set()

    def write(self, files: list[Path]) -> None:
        for folder in ("dev", "proc", "sys", "tmp", "root"):
            self._folder(folder)
        for file in files:
            name = str(file).lstrip("/")
            self._parents(name)
            if file.is_symlink():
                self._entry(name, stat.S_IFLNK | 0o777, str(file.readlink()).encode())
            else:
                self._entry(name, stat.S_IFREG | 0o755, file.read_bytes())
        # What the kernel starts. It can't take arguments, so the guest's own file says which interpreter it wants.
        guest = f"#!{sys.executable}\n".encode() + Path(__file__).with_name("guest.py").read_bytes()
        self._entry("init", stat.S_IFREG | 0o755, guest)
        self._entry("TRAILER!!!", 0, b"")

    def _parents(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            folder = "/".join(parts[:count])
            real = Path("/", folder)
            if folder not in self._folders and real.is_symlink():
                self._folders.add(folder)
                self._entry(folder, stat.S_IFLNK | 0o777, str(real.readlink()).encode())
                self._parents(str(real.resolve() / "x").lstrip("/"))
                self._folder(str(real.resolve()).lstrip("/"))
            else:
                self._folder(folder)

    def _folder(self, name: str) -> None:
        if name not in self._folders:
            self._folders.add(name)
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        self._number += 1
        encoded = name.encode() + b"\0"
        fields = [self._number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._archive.write(header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4))
