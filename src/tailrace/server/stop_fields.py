"""Stop strings as fields of requests: their limits, and the meaning of an empty one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from tailrace.chat.stop_strings import StopAutomaton
from tailrace.errors import InvalidRequest

#: Text that may be the start of a stop string is held back, so a long stop string delays the reply.
StopString = Annotated[str, Meta(max_length=1024)]
Stops = StopString | Annotated[list[StopString], Meta(max_length=1024)]

#: Of all strings together. Making them ready takes 2 to 5 µs a character.
_MAX_CHARACTERS = 16_384
#: Of more than these a thread makes the table, so that other replies go on.
_FEW_CHARACTERS = 512


def stop_strings(given: str | Sequence[str] | None, param: str) -> tuple[str, ...]:
    """The stop strings of the field ``param``. An empty string is ignored: clients send the empty fields of
    their forms. Raises InvalidRequest where they are too long together.
    """
    strings = (given,) if isinstance(given, str) else given or ()
    found = tuple(dict.fromkeys(string for string in strings if string))
    if sum(map(len, found)) > _MAX_CHARACTERS:
        raise InvalidRequest(f"'{param}' may have at most {_MAX_CHARACTERS} characters in all.", param=param)
    return found


async def stop_table(stops: Sequence[str]) -> StopAutomaton | tuple[str, ...]:
    """The automaton that finds the strings; empty where there are none."""
    if not stops:
        return ()
    if sum(map(len, stops)) <= _FEW_CHARACTERS:
        return StopAutomaton(stops)
    return await asyncio.to_thread(StopAutomaton, stops)
