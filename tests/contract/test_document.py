"""What ``/openapi.json`` says is what happens: schemathesis makes requests of it, right and wrong, for every route."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from servers import ServerProcess
from tailrace.server.app import endpoints
from tailrace.server.app_state import AppState
from tailrace.server.openapi import document
from tailrace.settings import Settings

ENDPOINTS = endpoints(AppState.of_one(Settings(), "m"))
FOUND = list(schemathesis.openapi.from_dict(document(ENDPOINTS)).get_all_operations())
OPERATIONS = {found.ok().label: found.ok() for found in FOUND if isinstance(found, Ok)}
BODIES = {f"{e.method} {re.sub(':[a-z]+}', '}', e.shown or '/v1' + e.path)}": e.body for e in ENDPOINTS}
#: What some fields have to be for a request to be answered.
PLAIN: dict[str, Any] = {
    "model": "fake",
    "messages": [{"role": "user", "content": "<say>ok</say>"}],
    "prompt": "<say>ok</say>",
    "content": "ok",
    "input": "ok",
}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_every_operation_can_be_requested() -> None:
    assert len(OPERATIONS) == len(FOUND) == sum(not endpoint.hidden for endpoint in ENDPOINTS)


@pytest.mark.parametrize("label", OPERATIONS)
def test_no_5xx_and_nothing_undocumented(scripted: ServerProcess, label: str) -> None:
    operation, kind = OPERATIONS[label], BODIES[label]
    required = {field.encode_name for field in msgspec.structs.fields(kind) if field.required} if kind else set()
    cases = st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases, data=st.data())
    def ask(case: schemathesis.Case[Any], data: st.DataObject) -> None:
        if isinstance(case.body, dict) and case.body:
            # Few fields at a time, the model that is served, often something to say: else nearly all is refused.
            kept = required | data.draw(st.sets(st.sampled_from(sorted(case.body)), max_size=3))
            case.body = {name: value for name, value in case.body.items() if name in kept}
            plain = {name: value for name, value in PLAIN.items() if name in case.body}
            case.body |= {name: value for name, value in plain.items() if name == "model" or data.draw(st.booleans())}
        response: Any = case.call(base_url=f"http://127.0.0.1:{scripted.port}", timeout=30)
        case.validate_response(response, checks=CHECKS)

    ask()
