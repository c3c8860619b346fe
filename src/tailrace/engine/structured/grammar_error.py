"""Why a grammar can't be used."""

from __future__ import annotations

from tailrace.errors import TailraceError


class GrammarError(TailraceError):
    """The grammar can't be used; the message is for the author of the request."""


class CompilerUnavailable(TailraceError):
    """A grammar couldn't be compiled for a reason that lies in this machine or program, not in the grammar."""
