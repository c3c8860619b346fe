"""What a rule is, and what came of it. The rules themselves stand in ``rules/``, by theme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace.conformance.session import Session

#: What is checked where no dialect is meant: it runs with the first dialect that the server has.
ANY = "any"


class Severity(StrEnum):
    """How bad it is to break a rule."""

    ERROR = "error"  #: a client shows nothing, fails or hangs
    WARNING = "warning"  #: it works, but worse: something is late, lost or wrong for some
    NOTE = "note"  #: advice; changes no exit status


class Verdict(StrEnum):
    """What came of a rule."""

    PASS = "pass"
    FAIL = "fail"
    NOT_SEEN = "not seen"  #: there was no occasion to see it: the model made no tool call, no key is set, ...


class Broken(Exception):
    """The rule is broken; the text says what was seen."""


class NotSeen(Exception):
    """The rule couldn't be observed; the text says why."""


Check = Callable[["Session"], str]


@dataclass(frozen=True)
class Rule:
    """One rule. ``wire`` is its number in docs/wire.md, None where the dialect's own API has it; ``breaks`` says whom
    a violation hurts, and how. ``check`` says what it saw when the rule holds, and raises Broken or NotSeen.
    """

    id: str
    wire: int | None
    title: str
    severity: Severity
    breaks: str
    theme: str
    dialect: str
    check: Check = field(repr=False, compare=False)


class Theme:
    """The rules of one module, in their order."""

    def __init__(self, name: str, dialect: str) -> None:
        self.name = name
        self.dialect = dialect
        self.rules: list[Rule] = []

    def rule(
        self, name: str, wire: int | None, title: str, severity: Severity, breaks: str
    ) -> Callable[[Check], Check]:
        """Enter the decorated check."""

        def enter(check: Check) -> Check:
            self.rules.append(Rule(name, wire, title, severity, breaks, self.name, self.dialect, check))
            return check

        return enter


def expect(holds: object, seen: str) -> None:
    """Raises Broken with what was seen unless ``holds``."""
    if not holds:
        raise Broken(seen)
