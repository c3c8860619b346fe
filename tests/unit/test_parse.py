"""Replies split into text, reasoning and tool calls: the same wherever tokens end, and nothing lost."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.chat.parse import Part, Reasoning, ReplyParser, Text, ToolCall

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": [1, "</think>", null]}}\n</tool_call>'

#: Replies made of the markup and of what nearly is markup.
BITS = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<", "<t", "</", "tool", " ", "\n", "x", "é", "{}", CALL]
)
REPLIES = st.lists(BITS, max_size=10).map("".join)


def parse(pieces: list[str], *, prompt: str = "", tools: bool = True) -> list[Part]:
    """The parts, neighbours of a kind joined."""
    parser = ReplyParser(prompt, tools=tools)
    parts = [part for piece in pieces for part in parser.feed(piece)] + parser.finish()
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + part.text)
        elif isinstance(part, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + part.text)
        else:
            joined.append(part)
    return joined


@given(REPLIES, st.booleans(), st.booleans(), st.data())
@example("<think>a</think>b", True, False, None)
def test_any_split_gives_the_same(reply: str, tools: bool, opened: bool, data: st.DataObject | None) -> None:
    prompt = "<think>\n" if opened else ""
    whole = parse([reply], prompt=prompt, tools=tools)
    assert parse(list(reply), prompt=prompt, tools=tools) == whole
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(reply)), max_size=6)))
        pieces = [reply[start:end] for start, end in pairwise([0, *cuts, len(reply)])]
        assert parse(pieces, prompt=prompt, tools=tools) == whole


@given(REPLIES, st.booleans())
def test_nothing_is_lost_but_markup_and_the_space_around_it(reply: str, tools: bool) -> None:
    kept = ""
    for part in parse([reply], tools=tools):
        kept += CALL if isinstance(part, ToolCall) else part.text

    def core(text: str) -> str:
        return "".join(text.replace("<think>", "").replace("</think>", "").split())

    assert core(kept) == core(reply)


@given(st.text())
def test_plain_text_is_text(text: str) -> None:
    """What has no markup comes out as it is, space and all."""
    expected = [Text(text)] if text else []
    if "<" not in text:
        assert parse([text]) == expected
    assert parse(["x" + text], tools=False) == [Text("x" + text)]


def test_a_think_block_and_the_reply() -> None:
    assert parse(["<think>\nwhy\n</think>\n\nbecause"]) == [Reasoning("why"), Text("because")]
    assert parse(["  <think>why"]) == [Reasoning("why")]
    assert parse(["<think></think>x"]) == [Text("x")]


@pytest.mark.parametrize("prompt", ["<think>", "...<|im_start|>assistant\n<think>\n"])
def test_a_think_block_that_the_template_has_opened(prompt: str) -> None:
    assert parse(["why</think>because"], prompt=prompt) == [Reasoning("why"), Text("because")]


def test_a_think_block_that_the_template_has_closed_again() -> None:
    assert parse(["because"], prompt="<think>\n\n</think>\n\n") == [Text("because")]


def test_a_tag_within_the_reply_is_text() -> None:
    assert parse(["I <think> so"]) == [Text("I <think> so")]


def test_tool_calls() -> None:
    first, second = parse([CALL, "\n", '<tool_call>{"name": "g"}</tool_call>'])
    assert isinstance(first, ToolCall)
    assert (first.name, json.loads(first.arguments)) == ("f", {"a": [1, "</think>", None]})
    assert second == ToolCall("g", "{}")


def test_text_around_tool_calls() -> None:
    before, call, after = parse(["Look: ", CALL, " Done."])
    assert (before, after) == (Text("Look:"), Text("Done."))
    assert isinstance(call, ToolCall)


@pytest.mark.parametrize(
    "broken",
    [
        "<tool_call>no json</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"name": 1}</tool_call>',
        '<tool_call>{"name": ""}</tool_call>',
        '<tool_call>{"name": "f", "arguments": []}</tool_call>',
        '<tool_call>{"name": "f"} {"name": "g"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}</tool_call>",
        "<tool_call>never ends",
        "<tool_cal",
    ],
)
def test_a_broken_tool_call_is_text(broken: str) -> None:
    assert parse([broken]) == [Text(broken)]


def test_a_tool_call_without_tools_is_text() -> None:
    assert parse([CALL], tools=False) == [Text(CALL)]
