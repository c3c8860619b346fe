"""Remembers libraries that have failed their proof. To compile and prove one takes a minute or more, and the result is
the same until the C code, the compiler or the proof is another one.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import msgspec


class _Refusal(msgspec.Struct, frozen=True):
    """What is written in place of the library."""

    reason: str
    proof: str  #: the digest of the Python code that proves it


def find_refusal(library: Path, folder: Path) -> str | None:
    """Why ``library`` has failed its proof, whose code is in ``folder``; None where it hasn't, as far as is known."""
    try:
        found = msgspec.json.decode(_note(library).read_bytes(), type=_Refusal)
    except (OSError, msgspec.MsgspecError):
        return None
    return found.reason if found.proof == _digest(folder) else None


def note_refusal(library: Path, folder: Path, reason: str) -> None:
    """Remember it. Where the note can't be written, the library is built and proved again the next time."""
    with contextlib.suppress(OSError):
        _note(library).write_bytes(msgspec.json.encode(_Refusal(reason, _digest(folder))))


def _note(library: Path) -> Path:
    """The file's name has the digest of the C code and the compiler."""
    return library.with_suffix(".wrong")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]
