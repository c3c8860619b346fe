"""The arguments of an earlier call, whatever form a conversation has them in.

A call may have been cut by ``max_tokens``, or a model may have broken its JSON. Such a call stays in the conversation,
and its text is what the model is told of it.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: An object that is nested deeper is text: programs that walk it would run out of stack.
_DEEPEST = 100


def read_arguments(given: object) -> dict[str, Any] | str:
    """The arguments as an object where they are one, as JSON text or decoded; else their text. What is absent, null or
    blank is an empty object.
    """
    if isinstance(given, str):
        if not given.strip():
            return {}
        try:
            decoded = msgspec.json.decode(given)
        except (msgspec.DecodeError, RecursionError):
            return given
        text = given
    else:
        decoded = given
        text = "" if isinstance(given, dict) else msgspec.json.encode(given).decode()
    if decoded is None:
        return {}
    if not isinstance(decoded, dict):
        return text
    if not _is_deep(decoded):
        return decoded
    return text or msgspec.json.encode(decoded).decode()


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
