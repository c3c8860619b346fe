"""Requests to Ollama's two generating routes."""

from __future__ import annotations

from ollama_wire import Told, error, stream, whole
from openai_wire import Reply, ask
from servers import ServerProcess


def chat(server: ServerProcess, text: str, **fields: object) -> Reply:
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], **fields}
    return ask(server.port, "POST", "/api/chat", body)


def generate(server: ServerProcess, prompt: str, **fields: object) -> Reply:
    return ask(server.port, "POST", "/api/generate", {"model": "fake", "prompt": prompt, **fields})


def both(server: ServerProcess, text: str, **fields: object) -> list[Told]:
    """The same asked in each of the four ways."""
    return [
        stream(chat(server, text, **fields)),
        whole(chat(server, text, stream=False, **fields)),
        stream(generate(server, text, **fields)),
        whole(generate(server, text, stream=False, **fields)),
    ]


def refused(reply: Reply, name: str, value: object) -> None:
    assert reply.status == 400, (name, value, reply.body)
    assert f"'{name}" in error(reply), (value, reply.body)
