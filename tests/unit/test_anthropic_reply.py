"""Anthropic's message, where the wire's own tests can't lead."""

from __future__ import annotations

import pytest

from tailrace.server.dialects.anthropic.reply import MessageHead, ending_object, whole
from tailrace.server.events import Usage
from tailrace.server.transcript import Reply, ToolCall, Transcript


@pytest.mark.parametrize(("arguments", "given"), [('{"a": 1}', {"a": 1}), ('{"a": "b', {}), ("", {})])
def test_a_call_that_was_cut_has_no_arguments(arguments: str, given: object) -> None:
    reply = Reply(tool_calls=[ToolCall("call_1", "f", arguments)], finish_reason="length")
    message = whole(MessageHead("m"), Transcript([reply], Usage(3, 2, 1)), hides_thinking=False)
    assert message["content"] == [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": given}]
    assert message["stop_reason"] == "max_tokens"


def test_a_stop_string_is_no_reason_where_calls_are() -> None:
    assert ending_object("tool_calls", "x") == {"stop_reason": "tool_use", "stop_sequence": None}
