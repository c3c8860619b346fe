"""Custom tools, whose input is any text: to the model each is a function with one argument."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.chat.tools import Function

#: The one argument, as the model sees it.
_INPUT = "input"


def custom_function(name: str, description: str | None, *, syntax: str | None, definition: str | None) -> Function:
    """The function. The tool's grammar (a ``definition`` in a ``syntax``) is part of the function's description."""
    texts = [description or ""]
    if definition:
        texts.append(f"The input has to follow this {syntax or ''} grammar:\n{definition}")
    return Function(
        name=name,
        description="\n\n".join(text for text in texts if text) or None,
        parameters={"type": "object", "properties": {_INPUT: {"type": "string"}}, "required": [_INPUT]},
    )


def custom_arguments(text: str) -> dict[str, Any]:
    """A custom tool's input as the function's arguments."""
    return {_INPUT: text}


def custom_input(arguments: str) -> str:
    """The other way round; arguments of another form are the input as they are."""
    try:
        given = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    text = given.get(_INPUT) if isinstance(given, dict) else None
    return text if isinstance(text, str) else arguments
