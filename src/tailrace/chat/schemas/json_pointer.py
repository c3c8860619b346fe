"""Follows JSON pointers (RFC 6901), which schemas write after ``#``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote


def at_pointer(root: Any, pointer: str) -> Any:
    """The target of ``pointer`` (URL-encoded, perhaps empty) in ``root``; None where there is none."""
    found = root
    for step in pointer.split("/")[1:]:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(step)
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found
