"""Requests to OpenAI's Responses, and the text of a response."""

from __future__ import annotations

from typing import Any

from openai_wire import Reply, ask
from responses_wire import check_response
from servers import ServerProcess


def post(server: ServerProcess, given: object, **fields: object) -> Reply:
    return ask(server.port, "POST", "/v1/responses", {"input": given, **fields})


def respond(server: ServerProcess, given: object, **fields: object) -> dict[str, Any]:
    """A response that is over and well."""
    response: dict[str, Any] = post(server, given, **fields).json()
    assert response.get("status") == "completed", response
    check_response(response)
    return response


def text(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])
