"""The tags of a call that has an element for each argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class XmlCallTags:
    """See the module."""

    name_start: str  #: "" where the call begins with the name
    name_end: str  #: "" where the next tag ends the name
    key_start: str
    key_end: str
    value_start: str
    value_end: str
    call_end: str  #: after the last argument; "" for none
    outer_end: str  #: at the end of the whole call
    own_lines: bool  #: whether a value has lines of its own
    #: Whether the end tag of a value may be missing: then the next argument or the call's end ends it.
    may_lack_end: bool = False
    #: Whether an argument without a type in the schema is text.
    untyped_text: bool = False
