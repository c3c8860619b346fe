"""Who sees the names of other clients and programs, all requests and the log."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from tailrace.server.caller import Caller, set_caller
from tailrace.server.dashboard.operator import is_operator


@pytest.mark.parametrize(
    ("caller", "header", "operator"),
    [
        (Caller("127.0.0.1"), "accept", True),
        (Caller("::1"), "accept", True),
        (Caller(""), "accept", True),
        (Caller("127.0.0.1"), "x-forwarded-for", False),
        (Caller("127.0.0.1"), "via", False),
        (Caller("192.0.2.1"), "accept", False),
        (Caller("127.0.0.1", "alice"), "accept", False),
        (Caller("192.0.2.1", "default"), "accept", True),
    ],
)
def test_names_of_others_are_for_the_operator(caller: Caller, header: str, operator: bool) -> None:
    scope = {"type": "http", "headers": [(header.encode(), b"x")]}
    set_caller(scope, caller)
    assert is_operator(Request(scope)) is operator
