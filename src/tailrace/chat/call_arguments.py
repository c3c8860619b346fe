"""The arguments of an earlier call, from any form that a conversation has them in.

A call may have been cut by ``max_tokens``, or its JSON may be broken. Such a call stays in the conversation as text.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.chat.json_depth import is_too_deep


def decode_arguments(arguments: object) -> dict[str, Any] | str:
    """The arguments as an object, where they are one: decoded, or as JSON text that isn't nested too deeply. Otherwise
    their text. Absent, null or blank arguments are an empty object.
    """
    text, decoded = "", arguments
    if isinstance(arguments, str):
        text = arguments
        if not arguments.strip():
            return {}
        if is_too_deep(arguments):
            return arguments
        try:
            decoded = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            return arguments
    if decoded is None:
        return {}
    return decoded if isinstance(decoded, dict) else text or msgspec.json.encode(decoded).decode()
