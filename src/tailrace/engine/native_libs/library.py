"""Builds a C library once for a tier, proves it, and caches it in the user's folder.

A library's file name holds a digest of all that its code depends on: sources, headers, compiler, flags and tier. So
machines that share the folder never load each other's code by mistake. The record beside a library has the digest of
its content: a file that a crash, a full disk or another user has changed is built again instead of loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import structlog

from tailrace import bundle
from tailrace.engine.native_libs import NativeUnavailable
from tailrace.engine.native_libs.compiler import COMPILE_FLAGS, LINK_FLAGS, Compiler, find_compiler
from tailrace.engine.native_libs.refusals import find_refusal, note_refusal
from tailrace.engine.native_libs.tiers import Tier
from tailrace.folders import cache_folder

#: A build that no process has loaded for so long is deleted when another one is made.
PRUNE_AFTER_SECONDS = 30 * 24 * 3600.0
#: A build takes minutes. One that began so long ago was interrupted, by a signal or by the machine's end.
INTERRUPTED_AFTER_SECONDS = 24 * 3600.0

#: Part of each digest; raised when what is written beside a library changes.
_RECORD_VERSION = 2

#: Proves a library: the names of the results that are wrong, none where all are right.
Proof = Callable[[ctypes.CDLL], list[str]]


class BuildRecord(msgspec.Struct, frozen=True):
    """What is written beside a library."""

    name: str
    tier: str
    compiler: str  #: the first line of its version
    proved: str  #: when, in UTC
    sha256: str  #: of the library's content


@dataclass(frozen=True)
class Source:
    """The C code of one library."""

    name: str  #: begins the names of its files in the cache
    folder: Path  #: all ``*.c`` in it and below are compiled, and it is on the include path
    proof: Proof
    #: Folders with others' headers, in the order of the include path. The digest has all headers in them and below.
    include: Sequence[Path] = ()


@dataclass(frozen=True)
class Build:
    """One source, compiled for one tier by one compiler: a file in the cache, whether it exists or not."""

    source: Source
    tier: Tier
    compiler: Compiler
    cache: Path

    @cached_property
    def path(self) -> Path:
        """The library's file."""
        return self.cache / f"{self.source.name}-{self.tier.name}-{self._digest()}.so"

    def _digest(self) -> str:
        flags = (_RECORD_VERSION, COMPILE_FLAGS, self.tier.compiler_flags, LINK_FLAGS, self.tier.name)
        digest = hashlib.sha256(repr((flags, self.compiler.version, platform.machine(), platform.libc_ver())).encode())
        for folder in (self.source.folder, *self.source.include):
            for path in sorted(folder.rglob("*.[ch]")):
                text = path.read_bytes()
                digest.update(f"{path.relative_to(folder)}\0{len(text)}\0".encode() + text)
        return digest.hexdigest()[:24]

    def make(self) -> None:
        """Compile the library, prove it, and put it into the cache. Raises NativeUnavailable."""
        path = self.path
        try:
            self.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            _keep_private(self.cache)
            # In a folder of its own first: a library gets its final name when it has been proved.
            with tempfile.TemporaryDirectory(prefix="building-", dir=self.cache) as work:
                draft = Path(work) / path.name
                self.write(draft)
                self._prove(draft)
                record = BuildRecord(
                    self.source.name,
                    self.tier.name,
                    self.compiler.version.splitlines()[0],
                    time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
                    _sha256(draft),
                )
                written = draft.with_suffix(".json")
                written.write_bytes(msgspec.json.encode(record))
                # A power cut must not leave names whose content never reached the disk.
                for file in (written, draft):
                    _sync(file)
                os.replace(written, path.with_suffix(".json"))
                os.replace(draft, path)
                _sync(self.cache)
        except OSError as error:
            raise NativeUnavailable(f"{self.cache} can't be written: {error}") from error

    def write(self, library: Path) -> None:
        """Write the library's file, unproved. Raises NativeUnavailable, and OSError."""
        # Without it a first start is silent for a minute or two.
        structlog.get_logger().info("compiling, once for this CPU", library=self.source.name, tier=self.tier.name)
        self.compiler.build(self._objects(), self._flags(), library)

    def defect(self) -> str | None:
        """Why the cached library must not be loaded; None where it is what was proved. Raises OSError."""
        for path in (self.cache, self.path):
            if (reason := _insecurity(path)) is not None:
                return reason
        record = read_record(self.path)
        if record is None or record.sha256 != _sha256(self.path):
            return f"the content of {self.path} isn't what was proved"
        return None

    def _prove(self, library: Path) -> None:
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            raise NativeUnavailable(f"what {self.compiler.path} makes can't be loaded: {error}") from error
        if wrong := self.source.proof(loaded):
            reason = f"{self.compiler.path} makes code that computes {', '.join(wrong)} wrongly"
            note_refusal(self.path, self.source.folder, reason)
            raise NativeUnavailable(reason)

    def _objects(self) -> list[tuple[str, Path]]:
        folder = self.source.folder
        return [
            ("-".join(path.relative_to(folder).with_suffix("").parts), path) for path in sorted(folder.rglob("*.c"))
        ]

    def _flags(self) -> list[str]:
        # Warnings about others' headers are of no use.
        others = (flag for folder in self.source.include for flag in ("-isystem", str(folder)))
        return [*self.tier.compiler_flags, f"-I{self.source.folder}", *others]


@dataclass(frozen=True)
class BundledBuild(Build):
    """A library that was compiled for the wheel which this installation comes from. It is proved on this machine, as
    others are: the machine that makes wheels hasn't got all tiers.
    """

    file: Path

    def _digest(self) -> str:
        digest = hashlib.sha256(repr((_RECORD_VERSION, self.tier.name)).encode())
        digest.update(self.file.read_bytes())
        return digest.hexdigest()[:24]

    def write(self, library: Path) -> None:
        """See ``Build``."""
        library.write_bytes(self.file.read_bytes())


def _describe(source: Source, tier: Tier, cache: Path) -> Build:
    """The build that this installation makes. Raises NativeUnavailable."""
    version = bundle.compiler()
    if version is None:
        return Build(source, tier, find_compiler(), cache)
    if (file := bundle.library(source.name, tier.name)) is None:
        raise NativeUnavailable(f"this wheel of tailrace has no library {source.name} for {tier.name}")
    return BundledBuild(source, tier, Compiler(str(file), version), cache, file)


def ensure_built(source: Source, tier: Tier, cache: Path | None = None, *, again: bool = False) -> Path:
    """The proved library of ``source`` for ``tier``. Where the cache hasn't got it, it is compiled, or copied out of
    the wheel that tailrace was installed from. ``cache`` is by default ``$XDG_CACHE_HOME/tailrace/kernels``, or the
    same under ``~/.cache``. ``again``: also where it failed its proof before. Raises NativeUnavailable.
    """
    tier.require()
    build = _describe(source, tier, cache or cache_folder() / "kernels")
    if (found := _find(build)) is not None:
        return found
    with _one_at_a_time(build):
        # Another process may have made it meanwhile, or found that it is wrong.
        if (found := _find(build)) is not None:
            return found
        if not again and (reason := find_refusal(build.path, source.folder)) is not None:
            raise NativeUnavailable(reason)
        build.make()
    prune(build.cache)
    return build.path


def _find(build: Build) -> Path | None:
    """The library's file in the cache; None where it has to be made."""
    path = build.path
    try:
        if path.is_file():
            if (defect := build.defect()) is None:
                # The time of the last use, by which ``prune`` decides. A cache that can't be written is still good to
                # read.
                with contextlib.suppress(OSError):
                    os.utime(path)
                return path
            structlog.get_logger().warning("a native library is built again", reason=defect)
    except OSError as error:
        structlog.get_logger().warning("a native library is built again", reason=str(error))
    return None


@contextlib.contextmanager
def _one_at_a_time(build: Build) -> Iterator[None]:
    """Let one process at a time make the library: it takes a minute of a core or more, and the others need it, too.

    A file system without locks has none.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            build.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = stack.enter_context(build.path.with_suffix(".lock").open("wb"))
            stack.callback(build.path.with_suffix(".lock").unlink, missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _insecurity(path: Path) -> str | None:
    """Why another user than this one and root may have written to ``path``. Raises OSError."""
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"other users may write to {path}"
    return None


def _keep_private(cache: Path) -> None:
    """Take the folder away from other users, who could put libraries of their own into it. Raises NativeUnavailable,
    and OSError.
    """
    if (reason := _insecurity(cache)) is None:
        return
    if cache.stat().st_uid != os.geteuid():
        raise NativeUnavailable(f"{reason}: set XDG_CACHE_HOME to a folder of your own")
    cache.chmod(0o700)
    # Whatever lies here may be from others.
    for path in cache.glob("*.so"):
        path.unlink(missing_ok=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_record(library: Path) -> BuildRecord | None:
    """What is written beside ``library``; None where nothing can be read."""
    try:
        return msgspec.json.decode(library.with_suffix(".json").read_bytes(), type=BuildRecord)
    except (OSError, msgspec.DecodeError):
        return None


def prune(cache: Path) -> None:
    """Delete builds that no process has loaded for 30 days, what is written beside them, and interrupted
    builds.
    """
    for path in _unused(cache):
        with contextlib.suppress(OSError):  # Another process prunes at the same time, or the file isn't ours.
            if path.is_dir():
                for part in path.iterdir():
                    part.unlink()
                path.rmdir()
            else:
                if path.suffix == ".so":
                    path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink()


def _unused(cache: Path) -> Iterator[Path]:
    now = time.time()
    for pattern in ("*.so", "*.wrong", "*.lock", "building-*"):
        kept = INTERRUPTED_AFTER_SECONDS if pattern == "building-*" else PRUNE_AFTER_SECONDS
        for path in cache.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < now - kept:
                    yield path
