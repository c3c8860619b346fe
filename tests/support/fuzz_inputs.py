"""Broken requests for every route: valid ones whose bytes, values, heads and framing are mutated, by hypothesis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
MESSAGES = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
]

#: A valid request with many fields for each route that takes a body. Other POST routes get any of these.
BODIES: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": MESSAGES,
        "max_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["x"],
        "logit_bias": {"5": 1},
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "seed": 1,
        "tools": [TOOL],
        "tool_choice": "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    },
    "/v1/completions": {"prompt": ["Hi", "there"], "max_tokens": 4, "echo": True, "logprobs": 1, "suffix": None},
    "/v1/embeddings": {"input": ["Hi"], "encoding_format": "base64"},
    "/v1/rerank": {"query": "Hi", "documents": ["Hi", {"text": "there"}], "top_n": 1, "return_documents": True},
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "instructions": "i",
        "max_output_tokens": 16,
        "store": True,
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    },
    "/v1/messages": {
        "model": "claude-any",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 4,
        "system": [{"type": "text", "text": "s"}],
        "tools": [{"name": "f", "input_schema": SCHEMA}],
        "thinking": {"type": "disabled"},
    },
    "/v1/messages/count_tokens": {"model": "claude-any", "messages": [{"role": "user", "content": "Hi"}]},
    "/api/chat": {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Hi"}],
        "options": {"num_predict": 4},
        "format": SCHEMA,
        "keep_alive": "5m",
    },
    "/api/generate": {"model": "smollm2-135m", "prompt": "Hi", "options": {"num_predict": 4}, "context": [1, 2]},
    "/api/embed": {"model": "smollm2-135m", "input": ["Hi"]},
    "/api/show": {"model": "smollm2-135m"},
    "/completion": {"prompt": ["a", 5, "b"], "n_predict": 4, "grammar": 'root ::= "a"', "samplers": ["top_k"]},
    "/infill": {"input_prefix": "a", "input_suffix": "b", "n_predict": 4},
    "/tokenize": {"content": "Hi", "with_pieces": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/apply-template": {"messages": MESSAGES},
}

#: Values that break assumptions about size, sign, type and encoding.
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    -0.0,
    "",
    "\x00",
    "\ud800",
    "\u202e\x1b[31m\r\nforged: 1",
    "a" * 20_000,
    "<|im_start|>" * 500,
    [],
    {},
    [[[[[[]]]]]],
    {"": {"": {"": None}}},
    ["a"] * 3000,
    [None],
    {"type": "object", "$ref": "#"},
    {"pattern": "(a*)*b"},
    "(?=a)",
    "{{ 7 ** 9999999 }}",
)


HEADERS = (
    "content-type",
    "accept",
    "authorization",
    "x-api-key",
    "anthropic-version",
    "content-encoding",
    "origin",
    "x-request-id",
    "expect",
    "connection",
    "transfer-encoding",
    "x-request-timeout",
    "traceparent",
    "cookie",
)


@dataclass(frozen=True)
class Route:
    """A method and a path with its parameters filled in."""

    method: str
    path: str


def routes_of(document: Mapping[str, Any]) -> list[Route]:
    """Every route of an OpenAPI document, without those that fetch models from elsewhere."""
    found = []
    for path, methods in document["paths"].items():
        if path in ("/api/pull", "/api/push"):
            continue
        filled = path.replace("{", "").replace("}", "").replace(":path", "")
        found += [Route(method.upper(), filled) for method in methods]
    return found


@st.composite
def requests(draw: DrawFn, routes: list[Route]) -> bytes:
    """The bytes of one request."""
    route = draw(st.sampled_from(routes))
    body = draw(_bodies(route))
    body = draw(_mutated_bytes(body)) if draw(st.booleans()) else body
    path = route.path.encode() + draw(
        st.sampled_from([b"", b"/", b"?x=1", b"?limit=-1&after=%00", b"/../x", b"%2e%2e"])
    )
    lines = [b"%b %b HTTP/1.1" % (route.method.encode(), path), b"host: 127.0.0.1"]
    framing = draw(st.sampled_from(["length", "length", "length", "chunked", "short", "both"]))
    if framing == "chunked":
        lines.append(b"transfer-encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part) + b"0\r\n\r\n"
    elif framing == "both":
        lines += [b"transfer-encoding: chunked", b"content-length: %d" % len(body)]
    else:
        lines.append(b"content-length: %d" % (len(body) if framing == "length" else len(body) + 5))
    lines += draw(st.lists(_headers(), max_size=3))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _headers() -> SearchStrategy[bytes]:
    names = st.sampled_from(HEADERS)
    values = st.one_of(
        st.sampled_from(
            ["", "application/json", "text/plain", "gzip", "100-continue", "close", "-1", "nan", "9" * 400]
        ),
        st.text(max_size=40),
    )
    return st.builds(lambda name, value: f"{name}: {value}".encode("utf-8", "surrogatepass"), names, values)


@st.composite
def _bodies(draw: DrawFn, route: Route) -> bytes:
    if route.method == "GET":
        return b""
    known = BODIES.get(route.path) or draw(st.sampled_from(list(BODIES.values())))
    body: Any = json.loads(json.dumps(known))
    for _ in range(draw(st.integers(0, 3))):
        body = draw(_replaced(body))
    return json.dumps(body).encode()


@st.composite
def _replaced(draw: DrawFn, value: Any) -> Any:
    """The value with one of its parts, or itself, replaced by a hostile one."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(list(value)))
        return {**value, key: draw(_replaced(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], draw(_replaced(value[index])), *value[index + 1 :]]
    return draw(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20), st.integers(), st.floats(allow_nan=False)))


@st.composite
def _mutated_bytes(draw: DrawFn, body: bytes) -> bytes:
    """The bytes cut, doubled, or with others put in their place."""
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, min(len(body), start + 40)))
    return (
        body[:start] + draw(st.binary(max_size=12)) + body[start : end if draw(st.booleans()) else start] + body[end:]
    )
