"""The ingress knows the routes as the server does: their dialects' errors, and which of them compute."""

from __future__ import annotations

import asyncio
import re

import pytest

from tailrace.cluster.ingress.dialects import StreamFacts, dialect_of
from tailrace.cluster.ingress.forwarded_request import COMPUTING
from tailrace.cluster.ingress.prompt_lookup import GENERATING
from tailrace.errors import ReplicaLost
from tailrace.server.app import endpoints
from tailrace.server.app_state import AppState
from tailrace.server.endpoint import Endpoint
from tailrace.settings import Settings


def known() -> list[Endpoint]:
    async def run() -> list[Endpoint]:
        return endpoints(AppState.of_one(Settings(backend="fake", responses_mb=0), "fake"))

    return asyncio.run(run())


def test_errors_have_the_form_of_the_servers_route() -> None:
    for endpoint in known():
        path = re.sub(r"\{[^}]*\}", "x", endpoint.path)
        headers = {} if endpoint.header is None else {endpoint.header.encode(): b"x"}
        assert dialect_of(path, headers).errors == endpoint.errors, path


def test_requests_that_compute_are_those_of_the_server() -> None:
    computing = {endpoint.path for endpoint in known() if endpoint.computes and endpoint.method == "POST"}
    assert computing == COMPUTING
    assert COMPUTING > GENERATING


@pytest.mark.parametrize("path", sorted(COMPUTING))
def test_signs_of_life_and_errors_are_whole_events(path: str) -> None:
    facts = StreamFacts(path, "a model", "req_1", comments=False)
    dialect = dialect_of(path, {})
    end = b"\n" if path.startswith("/api/") else b"\n\n"
    assert dialect.keep_alive(facts).endswith(end)
    pieces = dialect.failure(facts, ReplicaLost("It is gone."))
    assert all(piece.endswith(end) for piece in pieces)
    assert b"It is gone." in b"".join(pieces)


def test_a_failed_response_goes_on_counting_its_events() -> None:
    facts = StreamFacts("/responses", "m", "r", comments=False)
    facts.first = b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n'
    facts.last = b'data: {"type":"response.output_text.delta","delta":"a","sequence_number":41}\n\n'
    error, failed = dialect_of("/responses", {}).failure(facts, ReplicaLost("Gone."))
    assert error.startswith(b"event: error\n")
    assert b'"sequence_number":42' in error
    assert failed.startswith(b"event: response.failed\n")
    assert b'"id":"resp_1","status":"failed"' in failed
    assert b'"sequence_number":43' in failed
