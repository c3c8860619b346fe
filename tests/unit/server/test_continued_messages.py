"""Replies that go on where the last message ends: the prompt, and the parser's parts of the rest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from families import FUNCTIONS
from parsed_replies import Call, joined, offered
from tailrace.chat.families import FAMILIES
from tailrace.chat.families.base import Family
from tailrace.chat.messages import Message
from tailrace.chat.prompt import RenderedPrompt
from tailrace.chat.reply_parts import ReasoningPart, ReplyPart, TextPart
from tailrace.engine.backends.fake import FakeBackend
from tailrace.errors import InvalidRequest
from tailrace.protocol import PROTOCOL_VERSION, Hello
from tailrace.server.chat_request import Continued, chat_request
from tailrace.server.served_model import ServedModel
from template_oracle import FETCHED

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED: Message = {"role": "user", "content": "How are you?"}


def served(template: str, *special: str) -> ServedModel:
    backend = FakeBackend(ctx=0, parallel=1, kv_tokens=0, batch=1)
    names = {1000 + number: name for number, name in enumerate(special)}
    info = msgspec.structs.replace(backend.info, chat_template=template, special_tokens=names)
    return ServedModel(Hello(PROTOCOL_VERSION, 1, 0, info, backend.vocabulary))


def prompt(
    template: str, *messages: Message, continues: Continued = True, special: tuple[str, ...] = ()
) -> RenderedPrompt:
    (made,) = chat_request(served(template, *special), list(messages), continues=continues).prompts
    assert isinstance(made, RenderedPrompt)
    return made


def begun(content: str, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}


def test_the_prompt_ends_within_the_last_message() -> None:
    made = prompt(CHATML, ASKED, begun("I am "))
    assert made.text == "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\nI am "
    assert made.reply == "I am "


def test_white_space_goes_where_the_template_trims_it() -> None:
    assert prompt(CHATML.replace("m.content", "m.content | trim"), ASKED, begun("I am \n")).reply == "I am"


def test_what_the_template_puts_before_a_text_is_part_of_the_reply() -> None:
    source = FETCHED.joinpath("Qwen-Qwen3-0.6B.jinja").read_text(encoding="utf-8")
    made = prompt(source, ASKED, begun("I am"))
    assert made.head.text.endswith("<|im_start|>assistant\n")
    assert made.reply == "<think>\n\n</think>\n\nI am"


def test_a_thought_is_continued_where_there_is_no_text() -> None:
    source = FETCHED.joinpath("Qwen-Qwen3-0.6B.jinja").read_text(encoding="utf-8")
    for continues in (True, "reasoning_content"):
        made = prompt(source, ASKED, begun("", reasoning_content="They ask"), continues=continues)
        assert made.reply == "<think>\nThey ask"


def test_a_template_that_shows_no_such_message_gets_the_text_behind_the_head_of_a_reply() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no assistant') }}{% endif %}"
        "[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    made = prompt(source, ASKED, begun("I am "))
    assert made.text == "[How are you?]<think>\n\n</think>\n\nI am "
    assert made.reply == "I am "


def test_special_tokens_in_a_beginning_are_text() -> None:
    made = prompt(CHATML, ASKED, begun("a<|im_end|>b<think>"), special=("<|im_end|>", "<think>"))
    assert [made.text[start:end] for start, end in made.literal_spans] == ["<|im_end|>", "<think>"]


def test_any_message_can_be_continued() -> None:
    assert prompt(CHATML, {"role": "user", "content": "How a"}).text == "<|im_start|>user\nHow a"


@pytest.mark.parametrize(
    "messages",
    [
        [ASKED, begun("", tool_calls=[{"id": "1", "function": {"name": "now", "arguments": {}}}])],
        [],
    ],
)
def test_what_can_not_be_continued_is_refused(messages: list[Message]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prompt(CHATML, *messages)
    assert caught.value.param == "messages"
    with pytest.raises(InvalidRequest, match="no 'reasoning_content'"):
        prompt(CHATML, ASKED, begun("text"), continues="reasoning_content")


def test_a_continued_reply_can_not_have_a_required_call() -> None:
    tools = list(offered(FUNCTIONS).values())
    with pytest.raises(InvalidRequest) as caught:
        chat_request(served(CHATML), [ASKED, begun("I")], tools=tools, tool_choice="required", continues=True)
    assert caught.value.param == "tool_choice"


# The rest of the reply

HERMES = next(family for family in FAMILIES if family.name == "hermes")
HARMONY = next(family for family in FAMILIES if family.name == "harmony")
QWEN_CODER = next(family for family in FAMILIES if family.name == "qwen_coder")


@pytest.mark.parametrize(
    ("family", "start", "rest", "expected"),
    [
        (HERMES, "Hello", " world", [TextPart(" world")]),
        (HERMES, "Hello ", "world", [TextPart("world")]),
        (HERMES, "Hello\n\n", "  world", [TextPart("  world")]),
        (HERMES, "a <", "b> c", [TextPart("b> c")]),
        (HERMES, "a <tool_", "x", [TextPart("x")]),
        (HERMES, "<think>\nWe", "ll.\n</think>\n\nYes.", [ReasoningPart("ll."), TextPart("Yes.")]),
        (HERMES, "<think>", "Well.</think>Yes.", [ReasoningPart("Well."), TextPart("Yes.")]),
        (HERMES, "<think>\nWell.\n</th", "ink>\n\nYes.", [TextPart("Yes.")]),
        (HERMES, "<think>Well.</think>\n\nYes", ", no.", [TextPart(", no.")]),
        (HERMES, "<think>\nWell <thi", "s>.", [ReasoningPart("s>.")]),
        (
            HERMES,
            'Look: <tool_call>\n{"name": "weather", "arguments": {"ci',
            'ty": "Rome"}}\n</tool_call>',
            [Call("weather", '{"city": "Rome"}', whole=True)],
        ),
        (HERMES, "<tool_call>", '{"name": "now", "arguments": {}}</tool_call>', [Call("now", "{}", whole=True)]),
        (
            HERMES,
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
            '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
            [Call("weather", '{"city": "Rome"}', whole=True)],
        ),
        (
            QWEN_CODER,
            "<tool_call>\n<function=weather>\n<parameter=city>\nRo",
            "me\n</parameter>\n</function>\n</tool_call>",
            [Call("weather", '{"city": "Rome"}', whole=True)],
        ),
        (
            HARMONY,
            "<|channel|>analysis<|message|>We",
            "ll.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
            [ReasoningPart("ll."), TextPart("Yes.")],
        ),
        (HARMONY, "<|channel|>final<|message|>Yes", ", no.", [TextPart(", no.")]),
    ],
)
def test_the_parser_knows_where_the_beginning_stands(
    family: Family, start: str, rest: str, expected: list[TextPart | ReasoningPart | Call]
) -> None:
    head = "<|im_start|>assistant\n"
    for size in (1, 3, len(rest)):
        parser = family.parser(RenderedPrompt(head + start).continued_at(len(head)), offered(FUNCTIONS))
        parts: list[ReplyPart] = []
        for position in range(0, len(rest), size):
            parts += parser.feed(rest[position : position + size])
        parts += parser.finish()
        assert joined(parts) == expected, size
