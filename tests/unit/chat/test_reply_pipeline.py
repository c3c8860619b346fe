"""The pipeline of a reply: its fast path for plain text gives the same parts, and stop strings wait for min_tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.families import hermes
from tailrace.chat.families.harmony import make_parser
from tailrace.chat.reply_parts import CallArguments, CallEnd, CallStart, ReplyPart, TextPart
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.chat.tools import Function
from tailrace.prompt_text import PromptText

#: Whole characters, halves of some, rubbish, tags and the text around them.
PIECES = [
    *(b"a", b" b", b"", "ä".encode(), "字".encode()),
    *("é".encode()[:1], "é".encode()[1:], "😀".encode()[:2], "😀".encode()[2:], b"\xff"),
    *(b"<think>", b"</think>", b"<th", b"ink>", b"<tool_call>", b'{"name": "f"}', b"</tool_call>", b"stop"),
]
VOCABULARY = PieceTable(PIECES)
FUNCTIONS = {"f": Function(name="f")}


def joined(parts: list[ReplyPart]) -> list[ReplyPart]:
    """The same with neighbouring texts as one: where they are cut is each token's business."""
    out: list[ReplyPart] = []
    for part in parts:
        if out and isinstance(part, TextPart) and isinstance(out[-1], TextPart):
            out[-1] = TextPart(out[-1].text + part.text)
        else:
            out.append(part)
    return out


def pipeline(chat: bool, tools: bool, stops: tuple[str, ...]) -> ReplyPipeline:
    return ReplyPipeline(
        VOCABULARY, stops, hermes.FAMILY.parser(PromptText(""), FUNCTIONS if tools else {}) if chat else None
    )


@given(
    st.lists(st.integers(0, len(PIECES) - 1), max_size=40),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(), ("stop",), ("b<", "ab a")]),
)
def test_both_ways_say_the_same_token_by_token(
    tokens: list[int], chat: bool, tools: bool, stops: tuple[str, ...]
) -> None:
    long, short = pipeline(chat, tools, stops), pipeline(chat, tools, stops)
    for token in tokens:
        expected = long.feed(token)
        text = short.fast_text(token)
        told: list[ReplyPart] = short.feed(token) if text is None else [TextPart(text)] if text else []
        assert joined(told) == joined(expected)
        assert short.stopped == long.stopped
        if long.stopped:
            break
    assert short.finish() == long.finish()


@pytest.mark.parametrize("chat", [True, False])
def test_plain_text_takes_the_short_way(chat: bool) -> None:
    short = pipeline(chat, False, ())
    short.feed(0)
    assert [short.fast_text(token) for token in (0, 1, 2, 3, 4)] == ["a", " b", "", "ä", "字"]
    assert short.fast_text(5) is None, "half a character"
    short.feed(5)
    assert short.fast_text(0) is None, "it waits for its other half"


@pytest.mark.parametrize("cut", [False, True])
def test_a_call_that_is_cut_before_its_arguments_is_not_whole(cut: bool) -> None:
    """gpt-oss ends a call with the token that ends the reply, so at a limit nothing tells that the call goes on."""
    parser = make_parser("", {"weather": Function(name="weather")})
    parts = parser.feed("<|channel|>commentary to=functions.weather <|constrain|>json<|message|>")
    parts += parser.finish(cut=cut)
    whole = [CallArguments("{}"), CallEnd()]
    assert parts == [CallStart("weather"), *([] if cut else whole)]


def test_stop_strings_in_the_first_tokens_are_ignored() -> None:
    pipeline = ReplyPipeline(PieceTable([bytes([value]) for value in range(256)]), ["ab"], None, min_tokens=3)
    said = []
    for value in b"abaabx":
        said += pipeline.feed(value)
        if pipeline.stopped:
            break
    assert "".join(part.text for part in said if isinstance(part, TextPart)) == "aba"
    assert pipeline.stop_string == "ab"
