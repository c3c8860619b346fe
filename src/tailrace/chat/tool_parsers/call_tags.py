"""What stands around the parts of a call that has an element for each argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CallTags:
    """See the module."""

    name_opens: str  #: "" where the name follows at once
    name_ends: str  #: "" where the next tag ends it
    key_opens: str
    key_ends: str
    value_opens: str
    value_ends: str
    call_ends: str  #: behind the last argument; "" where there is none
    end: str  #: what ends the whole
    lines: bool  #: whether a value stands on lines of its own
    #: Whether a value whose end is missing ends before the next argument or the call's end.
    ends_missing: bool = False
    #: Whether an argument of which the schema says nothing is text.
    untyped_text: bool = False
