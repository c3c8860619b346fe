"""Structured output on the wire: every way of asking for it, what excludes what, and errors before the headers."""

from __future__ import annotations

import json

import pytest

from openai_wire import Reply, ask, chat_stream
from servers import ServerProcess

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
#: The reply that the fake model would give is no JSON.
SAYS = "<say>[1, 2]</say>"
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x"]}},
    "required": ["a"],
    "additionalProperties": False,
}
OBJECT = '{"a": "x"}'


def chat(server: ServerProcess, says: str = SAYS, /, **fields: object) -> Reply:
    return ask(server.port, "POST", CHAT, {"messages": [{"role": "user", "content": says}], **fields})


def text(reply: Reply) -> str:
    assert reply.status == 200, reply.body
    (choice,) = reply.json()["choices"]
    assert choice["finish_reason"] == "stop"
    said: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}, OBJECT),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, OBJECT),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, OBJECT),
        ({"json_schema": SCHEMA}, OBJECT),
        ({"guided_json": SCHEMA}, OBJECT),
        ({"guided_json": json.dumps(SCHEMA)}, OBJECT),
        ({"structured_outputs": {"json": SCHEMA}}, OBJECT),
        ({"guided_regex": "(be|see) it"}, "see it"),
        ({"structured_outputs": {"regex": "(be|see) it"}}, "see it"),
        ({"guided_choice": ["be it", "see it"]}, "see it"),
        ({"structured_outputs": {"choice": ["be it", "see it"]}}, "see it"),
        ({"grammar": 'root ::= "be" | "see" it\nit ::= " it"'}, "see it"),
        ({"guided_grammar": 'root ::= "be" | "see" " it"'}, "see it"),
        ({"guided_grammar": 'start: "be" | "see" " it"'}, "see it"),
        ({"structured_outputs": {"grammar": 'start: "be" | "see" " it"'}}, "see it"),
        ({"response_format": {"type": "text"}}, "see[1]"),
        ({"structured_outputs": {"json_object": False}}, "see[1]"),
    ],
)
def test_each_way_to_say_it(scripted: ServerProcess, fields: dict[str, object], said: str) -> None:
    says = f"<say>{'{' if said == OBJECT else 'see[1]'}</say>"
    assert text(chat(scripted, says, **fields)) == said
    assert text(ask(scripted.port, "POST", COMPLETIONS, {"prompt": says, **fields})) == said


def test_any_object(scripted: ServerProcess) -> None:
    for fields in ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}):
        assert json.loads(text(chat(scripted, '<say>{"b": [1, 2]}</say>', **fields))) == {"b": [1, 2]}


def test_a_stream_has_every_forced_token_and_counts_it(scripted: ServerProcess) -> None:
    stream = chat_stream(
        chat(scripted, stream=True, stream_options={"include_usage": True}, guided_json=SCHEMA, logit_bias={"1": 5})
    )
    assert stream.text == [OBJECT]
    assert stream.finish == ["stop"]
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == len(OBJECT)


def test_several_replies_keep_to_it_each(scripted: ServerProcess) -> None:
    choices = chat(scripted, n=3, guided_json=SCHEMA).json()["choices"]
    assert [choice["message"]["content"] for choice in choices] == [OBJECT] * 3


def test_a_stop_string_still_ends_the_reply(scripted: ServerProcess) -> None:
    assert text(chat(scripted, guided_json=SCHEMA, stop='"x')) == '{"a": '


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'}, "grammar"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
    ],
)
def test_only_one_may_be_given(scripted: ServerProcess, fields: dict[str, object], param: str) -> None:
    reply = chat(scripted, **fields)
    assert (reply.status, reply.error()["param"]) == (400, param)


def test_a_tool_may_be_called_instead(scripted: ServerProcess) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert text(chat(scripted, f"<say>{OBJECT}</say>", guided_json=SCHEMA, tools=tools)) == OBJECT
    assert text(chat(scripted, guided_json=SCHEMA, tools=tools, tool_choice="none")) == OBJECT
    call = '<say><tool_call>\n{"name": "f", "arguments": {}}\n</tool_call></say>'
    choice = chat(scripted, call, guided_json=SCHEMA, tools=tools).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_a_thought_that_the_template_has_begun_comes_first(scripted: ServerProcess) -> None:
    reply = chat(scripted, r"<say>Well\x21</think>\n{</say><think>", guided_json=SCHEMA, max_tokens=100)
    (choice,) = reply.json()["choices"]
    assert choice["message"]["content"] == OBJECT
    assert choice["message"]["reasoning_content"] == "Well!"


def test_refusals_have_a_reason(scripted: ServerProcess) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    for stream in (False, True):
        reply = chat(scripted, stream=stream, response_format=form)
        assert reply.status == 400
        assert "uniqueItems" in reply.error()["message"]
