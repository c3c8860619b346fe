"""Replies split into text, reasoning and tool calls: the same wherever tokens end, and nothing lost."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parsed_replies import Call, joined, parse, split_anywhere
from tailrace.chat.families import hermes
from tailrace.chat.reply_parts import CallArguments, CallEnd, CallStart, ReasoningPart, ReplyPart, TextPart
from tailrace.chat.tools import Function
from tailrace.prompt_text import PromptText

FAMILY = hermes.FAMILY
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": [1, "</think>", null]}}\n</tool_call>'

#: Replies made of the markup and of what nearly is markup.
BITS = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<", "<t", "</", "tool", " ", "\n", "x", "é", "{}", CALL]
)
REPLIES = st.lists(BITS, max_size=10).map("".join)


def said(pieces: list[str], *, prompt: str = "", tools: bool = True) -> list[TextPart | ReasoningPart | Call]:
    return joined(parse(FAMILY, pieces, prompt=prompt, functions=("f", "g") if tools else ()))


@given(REPLIES, st.booleans(), st.booleans(), st.data())
@example("<think>a</think>b", True, False, None)
def test_any_split_gives_the_same(reply: str, tools: bool, opened: bool, data: st.DataObject | None) -> None:
    prompt = "<think>\n" if opened else ""
    whole = said([reply], prompt=prompt, tools=tools)
    assert said(list(reply), prompt=prompt, tools=tools) == whole
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(reply)), max_size=6)))
        pieces = [reply[start:end] for start, end in pairwise([0, *cuts, len(reply)])]
        assert said(pieces, prompt=prompt, tools=tools) == whole


@given(REPLIES, st.booleans())
@example(f"{CALL}<tool_call>", True)
def test_nothing_is_lost_but_markup_and_the_space_around_it(reply: str, tools: bool) -> None:
    kept = ""
    for part in said([reply], tools=tools):
        kept += CALL if isinstance(part, Call) else part.text

    def core(text: str) -> str:
        for marker in ("<think>", "</think>", "</tool_call>"):
            text = text.replace(marker, "")
        return "".join(text.split())

    whole = core(reply)
    assert whole.startswith(core(kept))
    # A reply that ends in the beginning of a further call.
    lost = whole.removeprefix(core(kept))
    assert not lost or (CALL in kept and "<tool_call></tool_call>".startswith(lost)), lost


@given(st.text())
def test_plain_text_is_text(text: str) -> None:
    """What has no markup comes out as it is, space and all."""
    expected = [TextPart(text)] if text else []
    if "<" not in text:
        assert said([text]) == expected
    assert said(["x" + text], tools=False) == [TextPart("x" + text)]


def test_a_think_block_and_the_reply() -> None:
    assert said(["<think>\nwhy\n</think>\n\nbecause"]) == [ReasoningPart("why"), TextPart("because")]
    assert said(["  <think>why"]) == [ReasoningPart("why")]
    assert said(["<think></think>x"]) == [TextPart("x")]


@pytest.mark.parametrize("prompt", ["<think>", "...<|im_start|>assistant\n<think>\n"])
def test_a_think_block_that_the_template_has_opened(prompt: str) -> None:
    assert said(["why</think>because"], prompt=prompt) == [ReasoningPart("why"), TextPart("because")]
    assert said(["<think>\nwhy</think>because"], prompt=prompt) == [ReasoningPart("why"), TextPart("because")]


def test_a_think_block_that_the_template_has_closed_again() -> None:
    assert said(["because"], prompt="<think>\n\n</think>\n\n") == [TextPart("because")]


def test_a_tag_within_the_reply_is_text() -> None:
    assert said(["I <think> so"]) == [TextPart("I <think> so")]


def test_tool_calls() -> None:
    first, second = said([CALL, "\n", '<tool_call>{"name": "g"}</tool_call>'])
    assert isinstance(first, Call)
    assert (first.name, json.loads(first.arguments), first.whole) == ("f", {"a": [1, "</think>", None]}, True)
    assert second == Call("g", "{}", whole=True)


def test_text_around_tool_calls() -> None:
    before, call, after = said(["Look: ", CALL, " Done."])
    assert (before, after) == (TextPart("Look:"), TextPart("Done."))
    assert isinstance(call, Call)


def test_arguments_come_as_they_are_written() -> None:
    """From the arguments' first character on, nothing waits."""
    parser = FAMILY.parser(PromptText(""), {"f": Function(name="f")})
    assert parser.feed('<tool_call>{"name": "f", "arguments": ') == []
    assert parser.feed('{"a": "x') == [CallStart("f"), CallArguments('{"a": "x')]
    assert parser.feed("yz") == [CallArguments("yz")]
    assert parser.feed('"}}') == [CallArguments('"}'), CallEnd()]
    assert parser.feed("</tool_call>") == []


@pytest.mark.parametrize(
    "written",
    [
        '{"arguments": {"a": 1}, "name": "f"}',
        '{"name": "f", "parameters": {"a": 1}}',
        '{"name": "f", "arguments": "{\\"a\\": 1}"}',
        '{"id": "1", "type": "function", "name": "f", "arguments": {"a": 1}}',
        '{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}',
        '{"n\\u0061me": "f", "arguments": {"a": 1}, "more": [1]}',
    ],
)
def test_a_call_however_it_is_written(written: str) -> None:
    for parts in split_anywhere(FAMILY, f"<tool_call>{written}</tool_call>", functions=("f",)):
        (call,) = parts
        assert isinstance(call, Call)
        assert (call.name, json.loads(call.arguments), call.whole) == ("f", {"a": 1}, True)


def test_numbers_of_any_size_stay_as_they_are() -> None:
    (call,) = said(['<tool_call>{"name": "f", "arguments": {"n": 123456789012345678901234567890}}</tool_call>'])
    assert call == Call("f", '{"n": 123456789012345678901234567890}', whole=True)


def test_several_calls_between_one_pair_of_tags() -> None:
    calls = said(['<tool_call>{"name": "f"} {"name": "g"}</tool_call>'])
    assert calls == [Call("f", "{}", whole=True), Call("g", "{}", whole=True)]


@pytest.mark.parametrize(
    "cut", ["<tool", "<tool_call>", '<tool_call>\n{"name": "g"', '<tool_call>{"name": "g", "arguments":']
)
def test_the_beginning_of_a_further_call_is_dropped(cut: str) -> None:
    whole = Call("f", "{}", whole=True)
    first = '<tool_call>{"name": "f"}</tool_call>'
    for parts in split_anywhere(FAMILY, f"{first}\n{cut}", functions=("f", "g")):
        assert parts == [whole]
    assert said([cut]) == [TextPart(cut)], "without a call before it nothing is lost"


def test_text_behind_a_call_stays() -> None:
    whole = Call("f", "{}", whole=True)
    assert said(['<tool_call>{"name": "f"}</tool_call> Done. <tool_call>']) == [whole, TextPart("Done.")]
    assert said(['<tool_call>{"name": "f"}</tool_call> a <']) == [whole, TextPart("a <")]


def test_a_line_break_within_a_string_is_escaped() -> None:
    (call,) = said(['<tool_call>{"name": "f", "arguments": {"a": "x\ny\t"}}</tool_call>'])
    assert isinstance(call, Call)
    assert json.loads(call.arguments) == {"a": "x\ny\t"}


@pytest.mark.parametrize(
    "broken",
    [
        "<tool_call>no json</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"name": 1}</tool_call>',
        '<tool_call>{"name": ""}</tool_call>',
        '<tool_call>{"name": "f", "arguments": []}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "text"}</tool_call>',
        '<tool_call>{"name": "f", "argu\\',
        '<tool_call>{"name": "' + "x" * 3000 + '", "arguments": {}}</tool_call>',
        "<tool_call>never ends",
        "<tool_cal",
    ],
)
def test_what_turns_out_to_be_no_call_is_text(broken: str) -> None:
    for parts in split_anywhere(FAMILY, broken, functions=("f",)) if len(broken) < 1000 else [said([broken])]:
        assert parts == [TextPart(broken)]


@pytest.mark.parametrize(
    ("written", "arguments", "text"),
    [
        ('{"a": 1', '{"a": 1', None),
        ('{"a": "\\u00', '{"a": "\\u00', None),
        ('{"a": 1,}}</tool_call>', '{"a": 1,', "}}</tool_call>"),
        ('{"a": tru}}</tool_call>', '{"a": tru', "}}</tool_call>"),
        ('{"a": "\\ud800"}}</tool_call>', '{"a": "', '\\ud800"}}</tool_call>'),
        ('{"a": "\\x"}}</tool_call>', '{"a": "', '\\x"}}</tool_call>'),
        ('{"a":' * 300 + "1", '{"a":' * 256, '{"a":' * 44 + "1"),
    ],
)
def test_a_call_that_breaks_off_is_not_whole_and_its_rest_is_text(
    written: str, arguments: str, text: str | None
) -> None:
    said_whole = '<tool_call>{"name": "f", "arguments": ' + written
    expected: list[ReplyPart | Call] = [Call("f", arguments, whole=False), *([TextPart(text)] if text else [])]
    runs = split_anywhere(FAMILY, said_whole, functions=("f",)) if len(written) < 1000 else [said([said_whole])]
    for parts in runs:
        assert parts == expected


def test_a_tool_call_without_tools_is_text() -> None:
    assert said([CALL], tools=False) == [TextPart(CALL)]
