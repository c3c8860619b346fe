"""A rule, and the themes that group rules. The rules themselves are in ``rules/``, one module a theme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tailrace.conformance.outcome import Severity
from tailrace.conformance.session import Session

#: The dialect of rules that hold for all of them. They run with the first dialect that the server has.
ANY = "any"


Check = Callable[[Session], str]


@dataclass(frozen=True)
class Rule:
    """One rule.

    ``wire`` is its number in docs/wire.md, None for a rule of the dialect's own API. ``breaks`` says which clients a
    violation hurts, and how. ``check`` returns the observation when the rule holds, else it raises RuleBroken or
    NotObserved.
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
        """Add the decorated check to the theme."""

        def add(check: Check) -> Check:
            self.rules.append(Rule(name, wire, title, severity, breaks, self.name, self.dialect, check))
            return check

        return add
