"""Whatever a generation tells, the stream of Responses has its items one after the other, and all of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responses_wire import checked, framed
from tailrace.server.dialects.responses.output import Output
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.dialects.responses.response_object import ResponseHead
from tailrace.server.dialects.responses.stream import ResponsesStream
from tailrace.server.dialects.responses.tools import toolset
from tailrace.server.events import (
    Event,
    Finish,
    FinishReason,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

TOOLS = toolset(
    [
        {"type": "function", "name": "f"},
        {"type": "custom", "name": "c"},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
    ],
    None,
)
TEXTS = st.text(min_size=1, max_size=8)
#: What a reply is made of: texts, thoughts, calls of each kind, and silence.
PARTS: st.SearchStrategy[list[tuple[str, str]]] = st.lists(
    st.one_of(
        st.tuples(st.just("message"), TEXTS),
        st.tuples(st.just("logprobs"), TEXTS),
        st.tuples(st.just("reasoning"), TEXTS),
        st.tuples(st.sampled_from(["f", "c", "n__f", "unknown"]), st.integers(0, 99).map(str)),
        st.just(("silence", "")),
    ),
    max_size=12,
)


def told(parts: list[tuple[str, str]]) -> tuple[list[Event], list[list[str]]]:
    """The events, and for each item its type and what its deltas make."""
    said: list[Event] = []
    expected: list[list[str]] = []
    calls = 0
    for kind, value in parts:
        if kind == "silence":
            said.append(KeepAlive())
        elif kind in ("message", "logprobs", "reasoning"):
            entries = [TokenLogprob(value, value.encode(), -1.0, [])] if kind == "logprobs" else None
            said.append(ReasoningDelta(0, value) if kind == "reasoning" else TextDelta(0, value, entries))
            item = "reasoning" if kind == "reasoning" else "message"
            if expected and expected[-1][0] == item:
                expected[-1][1] += value
            else:
                expected.append([item, value])
        else:
            said.append(ToolCallDelta(0, calls, id=f"call_{calls}", name=kind))
            said += [ToolCallDelta(0, calls, arguments=piece) for piece in ('{"input":"', value, '"}')]
            expected.append(
                ["custom_tool_call", value] if kind == "c" else ["function_call", '{"input":"' + value + '"}']
            )
            calls += 1
    return said, expected or [["message", ""]]


@given(PARTS, st.booleans(), st.sampled_from(["stop", "length", "tool_calls"]))
def test_any_reply(parts: list[tuple[str, str]], summary: bool, reason: FinishReason) -> None:
    said, expected = told(parts)
    ended: list[dict[str, Any]] = []
    request = ResponsesRequest(input="x")
    head = ResponseHead(request, TOOLS, "m", stored=True)
    stream = ResponsesStream(head, TOOLS, summary=summary, encrypted=False, comments=False, ended=ended.append)
    pieces = stream.start()
    events = [*said, Finish(0, reason), Usage(7, 5, 3, 2)]
    for event in events:
        pieces += stream.encode(event)
    assert stream.end() == b""
    read = checked(framed(pieces), "incomplete" if reason == "length" else "completed")
    assert [[item["type"], text] for item, text in zip(read.output, read.deltas, strict=True)] == expected
    assert ended == [read.response], "what is kept is what was sent"

    gathered = Output(TOOLS, summary=summary, encrypted=False)
    for event in events:
        if not isinstance(event, KeepAlive):
            gathered.emit(event)
    assert [without_ids(item) for item in gathered.items()] == [without_ids(item) for item in read.output]
    assert gathered.status == read.response["status"]


def without_ids(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "id"}


@given(PARTS)
def test_what_was_written_until_a_client_went_away(parts: list[tuple[str, str]]) -> None:
    said, expected = told(parts)
    ended: list[dict[str, Any]] = []
    head = ResponseHead(ResponsesRequest(input="x"), TOOLS, "m", stored=True)
    stream = ResponsesStream(head, TOOLS, summary=False, encrypted=False, comments=False, ended=ended.append)
    for event in said:
        stream.encode(event)
    assert stream.end() == b""
    (response,) = ended
    assert response["status"] == "cancelled"
    types = [kind for kind, _ in expected] if any(kind != "silence" for kind, _ in parts) else []
    assert [item["type"] for item in response["output"]] == types
    assert all(item["status"] == "completed" for item in response["output"][:-1])
    assert all(item["status"] == "incomplete" for item in response["output"][-1:])


@pytest.mark.parametrize(
    ("arguments", "given"),
    [("{}", "{}"), ("[1]", "[1]"), ('{"input": 1}', '{"input": 1}'), ('{"input": "', '{"input": "')],
)
def test_a_custom_tools_arguments_of_another_form_are_its_input_as_they_are(arguments: str, given: str) -> None:
    output = Output(TOOLS, summary=False, encrypted=False)
    output.emit(ToolCallDelta(0, 0, id="call_0", name="c"))
    output.emit(ToolCallDelta(0, 0, arguments=arguments))
    (item,) = output.items()
    assert item["input"] == given
