"""The OpenAPI document is valid: its references resolve, and it has the routes that are served."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tailrace.server.app import endpoints
from tailrace.server.app_state import AppState
from tailrace.server.dialects.openai.chat import ChatRequest
from tailrace.server.dialects.openai.completions import CompletionRequest
from tailrace.server.middleware import canonical
from tailrace.server.openapi import document
from tailrace.settings import Settings

#: As a client gets it.
ENDPOINTS = endpoints(AppState.of_one(Settings(), "m"))
DOCUMENT: dict[str, Any] = json.loads(msgspec.json.encode(document(ENDPOINTS)))


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(reference: str) -> object:
    assert reference.startswith("#/")
    value: Any = DOCUMENT
    for key in reference[2:].split("/"):
        value = value[key]
    found: object = value
    return found


def test_every_reference_leads_to_a_schema() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 5
    assert all(isinstance(resolve(reference), dict) for reference in found)


def test_every_schema_is_used() -> None:
    used = {reference.rsplit("/", 1)[1] for reference in references(DOCUMENT)}
    assert used == set(DOCUMENT["components"]["schemas"])


def test_the_form_of_the_document() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["title"]
    assert DOCUMENT["info"]["version"]
    for path, operations in DOCUMENT["paths"].items():
        assert path.startswith("/")
        for verb, operation in operations.items():
            assert verb in {"get", "post", "delete"}
            assert operation["responses"]
            for status, response in operation["responses"].items():
                assert 200 <= int(status) < 600
                assert response["description"]
            names = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
            assert names == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_the_requests_fields_are_those_that_are_decoded() -> None:
    for path, kind in (("/v1/chat/completions", ChatRequest), ("/v1/completions", CompletionRequest)):
        schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        resolved = resolve(schema["$ref"])
        assert isinstance(resolved, dict)
        assert set(resolved["properties"]) == {field.encode_name for field in msgspec.structs.fields(kind)}


def test_query_parameters_are_documented() -> None:
    operation = DOCUMENT["paths"]["/v1/responses/{id}/input_items"]["get"]
    told = {one["name"]: one["schema"] for one in operation["parameters"] if one["in"] == "query"}
    assert set(told) == {"include", "after", "limit", "order"}
    assert told["limit"] == {"type": "integer", "minimum": 1, "maximum": 100}
    assert told["order"] == {"enum": ["asc", "desc"]}


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
def test_health_says_the_same_with_either_status(path: str) -> None:
    told = DOCUMENT["paths"][path]["get"]["responses"]
    assert told["503"]["content"] == told["200"]["content"]
    resolved = resolve(told["503"]["content"]["application/json"]["schema"]["$ref"])
    assert isinstance(resolved, dict)
    assert resolved["required"] == ["status"]


def test_the_paths_are_those_that_are_served() -> None:
    served = {(e.method.lower(), re.sub(":[a-z]+}", "}", e.path)) for e in ENDPOINTS if not e.hidden}
    assert {(verb, canonical(path)) for path, verbs in DOCUMENT["paths"].items() for verb in verbs} == served
