"""Gets one file: in one connection or in many, from where an earlier pull ended, and verified before it has its name.

Until then the bytes are in a file beside it whose name doesn't look like a model's. A process that is killed at any
time leaves that file, from which the next pull goes on.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import httpx2
import msgspec

from tailrace.errors import PullFailed
from tailrace.models.pulls.disk_space import disk_failure
from tailrace.models.pulls.file_lock import locked
from tailrace.models.pulls.progress import Stage
from tailrace.models.pulls.retries import Interrupted, Retries
from tailrace.models.pulls.transport import Opened, check_encoding, pieces

#: Bytes that are read and hashed at a time, of a file that is here.
_CHUNK = 1 << 20
#: Bytes after which what was written goes to the disk, and leaves the page cache: a file that is larger than memory
#: would displace the weights of the models that run.
_FLUSH_BYTES = 64 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to get. ``algorithm`` ``git`` is the SHA-1 that git has for a blob, for small files of the hub."""

    name: str
    url: str
    size: int
    algorithm: Literal["sha256", "git"] = "sha256"
    digest: str  #: in hexadecimal
    final: Path  #: where it will be
    partial: Path  #: where it grows, on the same file system
    lock: Path

    @property
    def shown_digest(self) -> str:
        """The digest as reports have it."""
        return f"sha256:{self.digest}" if self.algorithm == "sha256" else f"sha1:{self.digest}"

    def is_here(self) -> bool:
        """Whether it has its name; the size is a check against files of other programs."""
        try:
            return self.final.stat().st_size == self.size
        except OSError:
            return False

    def partial_bytes(self) -> int:
        """How much of it is here."""
        try:
            return min(self.partial.stat().st_size, self.size)
        except OSError:
            return 0


class Report(Protocol):
    """Receives the progress of the file: ``stage``, bytes so far, a note for people."""

    def __call__(self, stage: Stage, done: int, note: str = "") -> None:
        """See the class."""
        ...


#: Opens the file with these headers. Raises as ``Transport.open``, and PullFailed for a status that refuses it.
Open = Callable[[RemoteFile, Mapping[str, str]], AbstractContextManager[Opened]]


class Download:
    """Getting one file. ``remedy``: which variable moves its folder, for messages."""

    def __init__(
        self,
        file: RemoteFile,
        open: Open,
        report: Report,
        remedy: str,
        retries: Callable[[Callable[[str], None]], Retries] = Retries,
    ) -> None:
        self._file = file
        self._open = open
        self._report = report
        self._remedy = remedy
        self._retries = retries
        self._hash = self._new_hash()
        self._done = 0
        self._etag: str | None = None  #: of the bytes so far, where the server has a strong one
        self._ranges = True
        self._pieced = False  #: the bytes are of more than one response

    def run(self) -> None:
        """Return once the file is complete, verified and has its name. Raises PullFailed.

        While another process gets the same file, this one reports its progress. If that ends early, this one goes on.
        """
        file = self._file
        try:
            file.final.parent.mkdir(parents=True, exist_ok=True)
            with locked(file.lock, self._report_other):
                if file.is_here():
                    self._report("download", file.size)
                    return
                try:
                    whole = self._complete()
                except PullFailed:
                    if file.partial_bytes() == 0:
                        file.partial.unlink(missing_ok=True)
                    raise
                if not whole and self._pieced:
                    # What was here before, or one of several connections, may be at fault: once more, in one piece.
                    file.partial.unlink()
                    whole = self._complete()
                if not whole:
                    file.partial.unlink()
                    raise PullFailed(
                        f"what arrives for {file.name} isn't the file that was announced: it has another SHA-256. "
                        "Pull again later; if it happens again, the server or a proxy before it changes the file",
                        reason="damaged",
                    )
                os.replace(file.partial, file.final)
                _sync_folder(file.final.parent)
        except OSError as error:
            raise disk_failure(file.final.parent, error, self._remedy) from error

    def _report_other(self) -> None:
        self._report("wait", self._file.partial_bytes(), "another process downloads it")

    def _report_pause(self, note: str) -> None:
        self._report("wait", self._done, note)

    def _complete(self) -> bool:
        """Get what is missing; whether the whole has the right digest."""
        file = self._file
        file.partial.touch()
        with file.partial.open("r+b", buffering=_CHUNK) as out:
            if file.partial.stat().st_size > file.size:
                out.truncate(0)
            self._restart()
            self._read_partial(out)
            self._pieced = self._done > 0
            retries, furthest = self._retries(self._report_pause), self._done
            while self._done < file.size:
                try:
                    self._receive(out)
                    if self._done < file.size:
                        raise Interrupted(f"{file.name} ended after {self._done:,} of {file.size:,} bytes")
                except Interrupted as why:
                    retries.pause(why, progressed=self._done > furthest)
                    furthest = max(furthest, self._done)
            out.flush()
            os.fsync(out.fileno())
        return self._hash.hexdigest() == file.digest

    def _read_partial(self, out: BinaryIO) -> None:
        """Hash what is here."""
        while chunk := out.read(_CHUNK):
            self._hash.update(chunk)
            self._done += len(chunk)
            self._report("verify", self._done)

    def _receive(self, out: BinaryIO) -> None:
        """Append what one response has."""
        headers: dict[str, str] = {}
        if self._done and not self._ranges:
            self._restart(out)
        if self._done:
            self._pieced = True
            headers["range"] = f"bytes={self._done}-"
            if self._etag is not None:
                headers["if-range"] = self._etag  # A file that has changed comes whole (RFC 9110, section 13.1.5).
        with self._open(self._file, headers) as opened:
            response = opened.response
            # First, because what is here is given up for a response that is the file, and for no other.
            self._check_head(response)
            if not self._continues(response):
                began = self._done
                self._restart(out)
                if response.status_code != 200:
                    raise self._misplaced(response, began)
            etag = response.headers.get("etag")
            self._etag = etag if etag is not None and etag.startswith('"') else None
            for chunk in self._bounded(response, out):
                out.write(chunk)
                self._hash.update(chunk)
                before, self._done = self._done, self._done + len(chunk)
                if before // _FLUSH_BYTES != self._done // _FLUSH_BYTES:
                    _write_back(out)
                self._report("download", self._done)

    def _continues(self, response: httpx2.Response) -> bool:
        """Whether the body goes on where this file ends. False at the beginning means that it begins there, too."""
        if response.status_code != 206:
            return response.status_code == 200 and self._done == 0
        found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        good = found is not None and int(found[1]) == self._done and found[3] in ("*", str(self._file.size))
        # A server with a wrong idea of ranges is asked for the whole file from then on.
        self._ranges = self._ranges and good
        return good

    def _misplaced(self, response: httpx2.Response, began: int) -> Exception:
        """The failure for a response that is neither the file nor what was wanted of it."""
        host = response.request.url.host
        if began == 0:
            return PullFailed(
                f"{host} answers with status {response.status_code} and not with {self._file.name}. Pull again later",
                reason="damaged",
            )
        return Interrupted(f"{host} has another part of {self._file.name} than was wanted", retry_after=0.0)

    def _check_head(self, response: httpx2.Response) -> None:
        """Raise PullFailed for a response that isn't the file."""
        file, host = self._file, response.request.url.host
        check_encoding(response)
        if response.headers.get("content-type", "").startswith("text/html"):
            raise PullFailed(
                f"{host} answers with a web page instead of {file.name}: this network may want a login in a browser, "
                "or a proxy blocks the file",
                reason="damaged",
            )
        length = response.headers.get("content-length", "")
        if response.status_code == 200 and length.isascii() and length.isdigit() and int(length) != file.size:
            raise PullFailed(
                f"{host} has {int(length):,} bytes for {file.name}, and {file.size:,} were announced: it has changed "
                "meanwhile, or a proxy answers instead. Pull again",
                reason="damaged",
            )

    def _bounded(self, response: httpx2.Response, out: BinaryIO) -> Iterator[bytes]:
        """The body's pieces. Raises PullFailed for a longer one than the file, of which nothing stays."""
        began = self._done
        left = self._file.size - began
        for chunk in pieces(response):
            left -= len(chunk)
            if left < 0:
                out.flush()
                out.truncate(began)
                raise PullFailed(
                    f"{response.request.url.host} sends more than the {self._file.size:,} bytes that {self._file.name} "
                    "has. Pull again later",
                    reason="damaged",
                )
            yield chunk

    def _restart(self, out: BinaryIO | None = None) -> None:
        if out is not None:
            out.seek(0)
            out.truncate(0)
        self._hash, self._done, self._etag = self._new_hash(), 0, None

    def _new_hash(self) -> hashlib._Hash:
        if self._file.algorithm == "sha256":
            return hashlib.sha256()
        # Git's object: a header, and the file (git's documentation, "Git Internals - Git Objects").
        return hashlib.sha1(f"blob {self._file.size}\0".encode(), usedforsecurity=False)


def _write_back(out: BinaryIO) -> None:
    out.flush()
    if hasattr(os, "fdatasync"):
        os.fdatasync(out.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_folder(folder: Path) -> None:
    """Have the file's new name survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
