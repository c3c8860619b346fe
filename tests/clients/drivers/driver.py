"""What every Python client's driver shares: it takes asks as lines of JSON and answers with what the client has seen.

Runs in the client's own environment, so nothing but the standard library is imported here. A line holds the endpoint
and a list of asks, which are made at the same time; the answer is a line with a result for each. Drivers judge nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol


@dataclasses.dataclass
class Endpoint:
    """Where the server is. ``root`` is without ``/v1``."""

    root: str
    key: str
    model: str

    @property
    def v1(self) -> str:
        """OpenAI's base URL."""
        return f"{self.root}/v1"


@dataclasses.dataclass
class Ask:
    """One conversation: ``turns`` are said one after the other, tool calls answered from ``answers`` by name."""

    turns: list[str]
    stream: bool
    tools: list[dict[str, Any]]
    answers: dict[str, str]
    #: Go away after so many pieces of text.
    leave_after: int | None = None


@dataclasses.dataclass
class Call:
    """A tool call; ``arguments`` as the client gives them, text or parsed."""

    id: str
    name: str
    arguments: Any


@dataclasses.dataclass
class Reply:
    """One reply of the model as the client has shown it."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = dataclasses.field(default_factory=list)
    finish: str | None = None
    usage: dict[str, int] | None = None
    #: In how many parts the text came.
    pieces: int = 0

    def says(self, text: str) -> None:
        """Another piece of text, empty ones apart."""
        self.text += text
        self.pieces += bool(text)


class Chat(Protocol):
    """A conversation through one client, which keeps the history in the client's own terms."""

    async def say(self, text: str) -> Reply:
        """The user says something."""

    async def answer(self, answers: list[tuple[Call, str]]) -> Reply:
        """The tools that the model has called answer."""


def usage(prompt: int | None, completion: int | None) -> dict[str, int] | None:
    """Usage in one form; none where the client has none."""
    return None if prompt is None or completion is None else {"prompt": prompt, "completion": completion}


async def _converse(make: Callable[[Endpoint, Ask], Chat], endpoint: Endpoint, ask: Ask) -> dict[str, Any]:
    result: dict[str, Any] = {"texts": [], "calls": [], "replies": [], "error": None}
    try:
        chat = make(endpoint, ask)
        for turn in ask.turns:
            reply = await chat.say(turn)
            while True:
                result["replies"].append(dataclasses.asdict(reply))
                result["calls"] += [dataclasses.asdict(call) for call in reply.calls]
                if not reply.calls or not ask.answers:
                    break
                reply = await chat.answer([(call, ask.answers[call.name]) for call in reply.calls])
            result["texts"].append(reply.text)
    except Exception as error:
        # An exception of the client is a result: its user sees it.
        status = getattr(error, "status_code", None)
        kinds = [kind.__name__ for kind in type(error).__mro__]
        result["error"] = {"kinds": kinds, "status": status, "message": str(error)}
    return result


async def _all(make: Callable[[Endpoint, Ask], Chat], line: str) -> str:
    wanted = json.loads(line)
    endpoint = Endpoint(**wanted["endpoint"])
    asks = [_converse(make, endpoint, Ask(**ask)) for ask in wanted["asks"]]
    return json.dumps(await asyncio.gather(*asks))


async def _serve(make: Callable[[Endpoint, Ask], Chat]) -> None:
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        # The loop goes on while nothing is asked, as it would in a program: clients clean up behind themselves on it.
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(await _all(make, line), file=answers, flush=True)


def serve(make: Callable[[Endpoint, Ask], Chat]) -> None:
    """Answer asks until standard input ends. What clients print goes aside, to standard error."""
    asyncio.run(_serve(make))
