"""A method that a path doesn't take, and paths that are told apart from one."""

from __future__ import annotations

import re

import pytest

from openai_wire import ask
from servers import ServerProcess
from tailrace.server.app import endpoints
from tailrace.server.app_state import AppState
from tailrace.settings import Settings

METHODS: dict[str, set[str]] = {}
for endpoint in endpoints(AppState.of_one(Settings(), "m")):
    METHODS.setdefault(endpoint.path, set()).add(endpoint.method)
    if endpoint.method == "GET":
        METHODS[endpoint.path].add("HEAD")


@pytest.mark.parametrize("path", METHODS)
def test_a_wrong_method_gets_the_allowed_methods(scripted: ServerProcess, path: str) -> None:
    reply = ask(scripted.port, "PATCH", re.sub(r"\{.+?\}", "resp_a", path))
    assert reply.status == 405
    allow = reply.header("allow")
    assert allow is not None
    assert set(allow.split(", ")) == METHODS[path]


def test_compacting_is_no_wrong_method(scripted: ServerProcess) -> None:
    reply = ask(scripted.port, "POST", "/v1/responses/compact", {"model": "fake", "input": "a"})
    assert reply.status == 404
    assert "compact" in reply.error()["message"]
