"""The outcome of a rule: its severity, its verdict, and the two exceptions that a check ends with."""

from __future__ import annotations

from enum import StrEnum


class Severity(StrEnum):
    """How much a broken rule hurts a client."""

    ERROR = "error"  #: a client shows nothing, fails or hangs
    WARNING = "warning"  #: a client works, but something is late, lost or wrong
    NOTE = "note"  #: advice; changes no exit status


class Verdict(StrEnum):
    """The result of checking a rule."""

    PASS = "pass"
    FAIL = "fail"
    #: The rule had nothing to look at: the model made no tool call, no key is set, ...
    NOT_OBSERVED = "not seen"


class RuleBroken(Exception):
    """The server breaks the rule; the text says what was observed."""


class NotObserved(Exception):
    """The rule couldn't be observed; the text says why."""


def require(condition: object, observed: str) -> None:
    """Raises RuleBroken with the observation unless the condition holds."""
    if not condition:
        raise RuleBroken(observed)
