"""What a family's replies are marked up with, in the form that the parser of replies follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tailrace.chat.tool_parsers.base import CallParser


class ThoughtMarkers(NamedTuple):
    """What stands around a thought."""

    start: str
    end: str


THINK = ThoughtMarkers("<think>", "</think>")

#: Makes the reader of what follows an opening marker.
MakeCallParser = Callable[[], CallParser]


@dataclass(frozen=True, kw_only=True)
class Markup:
    """See the module. Without offered tools there are no calls, and everything but thoughts is empty."""

    thoughts: tuple[ThoughtMarkers, ...] = (THINK,)
    #: Markers that begin calls, wherever they stand.
    calls: Mapping[str, MakeCallParser] = field(default_factory=dict)
    #: Beginnings of calls that are known as such at the reply's start alone; the reader gets them, too.
    bare_calls: Mapping[str, MakeCallParser] = field(default_factory=dict)
    #: Markers around calls that say nothing.
    ignored: tuple[str, ...] = ()
    #: Markers that readers look for.
    inner_markers: tuple[str, ...] = ()
    #: Whether a call ends a thought, where models leave its end out.
    calls_end_thoughts: bool = False

    @property
    def markers(self) -> frozenset[str]:
        """Every marker: those that are control tokens have to be seen as text."""
        around = [marker for thought in self.thoughts for marker in thought]
        return frozenset((*around, *self.calls, *self.ignored, *self.inner_markers))
