"""Usual requests to OpenAI's routes of a server."""

from __future__ import annotations

from openai_wire import Connection, Reply, ask, chat
from servers import ServerProcess

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
USER = {"role": "user", "content": "<say>ok</say>"}
#: A reply of a minute and a half at 20 ms a step.
LONG = "<say>" + "x" * 4500 + "</say>"


def ask_chat(server: ServerProcess, **fields: object) -> Reply:
    """A chat, with these fields."""
    return ask(server.port, "POST", CHAT, {"messages": [USER], **fields})


def ask_completion(server: ServerProcess, **fields: object) -> Reply:
    """A completion, with these fields."""
    return ask(server.port, "POST", COMPLETIONS, {"prompt": "<say>ok</say>", **fields})


def reply_to(server: ServerProcess, text: str = "<say>ok</say>", path: str = CHAT, **request: object) -> str:
    """The text of a chat's reply. ``request``: parameters of ``ask``."""
    reply = ask(server.port, "POST", path, chat(text), **request)  # type: ignore[arg-type]  # parameters of several types
    assert reply.status == 200, reply.body
    said: str = reply.json()["choices"][0]["message"]["content"]
    return said


def begin(server: ServerProcess, text: str = LONG, **fields: object) -> Connection:
    """A stream whose first piece of text has arrived."""
    connection = Connection(server.port)
    connection.request("POST", CHAT, chat(text, stream=True, **fields))
    connection.read_head()
    connection.chunk()
    connection.chunk()
    return connection
