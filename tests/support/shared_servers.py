"""Servers that share a PostgreSQL, and their responses."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from openai_wire import ask
from servers import ServerProcess, fake

#: The scripted backend writes a byte a step: these run until they are ended.
ENDLESS = "word " * 4000


def server_on(address: str) -> contextlib.AbstractContextManager[ServerProcess]:
    return fake("--ctx", "100000", step=0.002, responses_store=address)


def respond(server: ServerProcess, text: str, **fields: Any) -> dict[str, Any]:
    reply = ask(server.port, "POST", "/v1/responses", {"input": f"<say>{text}</say>", **fields})
    assert reply.status == 200, reply.body
    response: dict[str, Any] = reply.json()
    return response


def get(server: ServerProcess, identity: str) -> dict[str, Any]:
    response: dict[str, Any] = ask(server.port, "GET", f"/v1/responses/{identity}").json()
    return response


def events(body: bytes) -> list[dict[str, Any]]:
    lines = [line for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def text_of(found: list[dict[str, Any]]) -> str:
    return "".join(one["delta"] for one in found if one["type"] == "response.output_text.delta")


def running(server: ServerProcess) -> int:
    """How many requests the server's engine computes."""
    lines = ask(server.port, "GET", "/metrics").body.decode().splitlines()
    (line,) = (line for line in lines if line.startswith("vllm:num_requests_running{"))
    return int(float(line.rsplit(" ", 1)[1]))
