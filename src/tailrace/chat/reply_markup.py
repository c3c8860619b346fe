"""The markup of a family's replies: markers of thoughts and calls, for the reply's parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tailrace.chat.tool_parsers.base import CallParser


class ThoughtMarkers(NamedTuple):
    """The markers around a thought (``<think>`` and ``</think>``)."""

    start: str
    end: str


THINK = ThoughtMarkers("<think>", "</think>")

#: Makes the parser of the text after a call's opening marker.
MakeCallParser = Callable[[], CallParser]


@dataclass(frozen=True, kw_only=True)
class Markup:
    """See the module. Without offered tools everything but ``thoughts`` is empty."""

    thoughts: tuple[ThoughtMarkers, ...] = (THINK,)
    #: Markers that begin calls anywhere.
    calls: Mapping[str, MakeCallParser] = field(default_factory=dict)
    #: Texts that begin calls at the reply's start alone. The call's parser reads them again.
    bare_calls: Mapping[str, MakeCallParser] = field(default_factory=dict)
    #: Markers around calls, without a meaning of their own.
    ignored: tuple[str, ...] = ()
    #: Markers inside calls.
    inner_markers: tuple[str, ...] = ()
    #: Whether a call ends a thought: some models leave the end marker out.
    calls_end_thoughts: bool = False

    @property
    def markers(self) -> frozenset[str]:
        """All markers. Those that are control tokens must be visible to the parser as text."""
        around = [marker for thought in self.thoughts for marker in thought]
        return frozenset((*around, *self.calls, *self.ignored, *self.inner_markers))
