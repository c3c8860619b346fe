"""The messages between the engine and its sandbox for grammars, framed as in ``ipc``.

They are a module of their own, so that the engine doesn't import the sandbox's program: it knows chat templates and
schemas, which would take an eighth of a second of each engine's start.
"""

from __future__ import annotations

import msgspec

from tailrace.generation_params import Grammar


class SandboxVocabulary(msgspec.Struct, tag="vocabulary", frozen=True, array_like=True):
    """The first message: the model's tokens as in ``Backend``."""

    pieces: list[bytes]
    end_tokens: list[int]


class TryGrammar(msgspec.Struct, tag="try", frozen=True, array_like=True):
    """Compile and follow a grammar. ``cpu_seconds``: what that may take. ``nice``: how far its process stands back."""

    grammar: Grammar
    cpu_seconds: float
    nice: int = 0


class SandboxReady(msgspec.Struct, tag="ready", frozen=True, array_like=True):
    """The vocabulary is loaded: from here on, a death of the process is a grammar's fault."""


class TryResult(msgspec.Struct, tag="result", frozen=True, array_like=True):
    """The grammar in llguidance's form, or the reason why it can't be used."""

    document: str | None = None
    error: str | None = None
    mask_seconds: float = 0.0  #: processor seconds of a mask: the median
    memory_bytes: int = 0
