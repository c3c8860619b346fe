"""Whatever a generation tells, Anthropic's stream has its blocks one after the other, and all of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from anthropic_wire import blocks, events
from tailrace.errors import EngineDied
from tailrace.server.dialects.anthropic.reply import MessageHead
from tailrace.server.dialects.anthropic.stream import MessageStream
from tailrace.server.events import Event, Failure, Finish, KeepAlive, ReasoningDelta, TextDelta, ToolCallDelta, Usage

TEXTS = st.text(min_size=1, max_size=8)
#: What a reply is made of: texts, thoughts, calls with one number, and silence.
PARTS: st.SearchStrategy[list[tuple[str, str]]] = st.lists(
    st.one_of(
        st.tuples(st.just("text"), TEXTS),
        st.tuples(st.just("thinking"), TEXTS),
        st.tuples(st.just("call"), st.integers(0, 99).map(str)),
        st.just(("silence", "")),
    ),
    max_size=12,
)


def encoder() -> MessageStream:
    return MessageStream(MessageHead("m"), "req_1", 7, hides_reasoning=False)


def told(parts: list[tuple[str, str]]) -> tuple[list[Event], list[dict[str, Any]]]:
    """The events, and the blocks that they make."""
    said: list[Event] = []
    expected: list[dict[str, Any]] = []
    calls = 0
    for kind, value in parts:
        if kind == "silence":
            said.append(KeepAlive())
        elif kind == "call":
            said.append(ToolCallDelta(0, calls, id=f"call_{calls}", name="f"))
            said += [ToolCallDelta(0, calls, arguments=piece) for piece in ('{"x":[', value, "]}")]
            expected.append({"type": "tool_use", "id": f"toolu_{calls}", "name": "f", "input": {"x": [int(value)]}})
            calls += 1
        else:
            said.append(TextDelta(0, value) if kind == "text" else ReasoningDelta(0, value))
            if expected and expected[-1]["type"] == kind:
                expected[-1][kind] += value
            else:
                signature = {"signature": "unsigned"} if kind == "thinking" else {}
                expected.append({"type": kind, kind: value, **signature})
    return said, expected or [{"type": "text", "text": ""}]


@given(PARTS)
def test_any_reply(parts: list[tuple[str, str]]) -> None:
    said, expected = told(parts)
    stream = encoder()
    pieces = stream.start()
    for event in [*said, Finish(0, "stop"), Usage(7, 5, 3)]:
        pieces += stream.encode(event)
    pieces.append(stream.end())
    names = [event["type"] for event in events(pieces)]
    assert names[:2] == ["message_start", "ping"]
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("ping") == 1 + sum(isinstance(event, KeepAlive) for event in said)
    between = [event for event in events(pieces)[1:-2] if event["type"] != "ping"]
    assert blocks(between) == expected


def test_a_failure_is_the_last_event() -> None:
    stream = encoder()
    (piece,) = stream.encode(Failure(EngineDied("gone")))
    (event,) = events([piece])
    assert event == {"type": "error", "error": {"type": "api_error", "message": "gone"}, "request_id": "req_1"}
    assert stream.end() == b""
