"""Anthropic's requests: what they become, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.errors import InvalidRequest
from tailrace.generation_params import Sampling
from tailrace.prompt_text import PromptText
from tailrace.protocol import PROTOCOL_VERSION, Hello
from tailrace.server.dialects.anthropic.prepare import hides_reasoning, prepare
from tailrace.server.dialects.anthropic.request import MessagesRequest
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel

#: Shows all that a template is given.
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}|{{ m.content }}"
    "{% if m.reasoning_content %}|thought {{ m.reasoning_content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}|call {{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}"
    "{% endfor %}"
    "{% if m.tool_call_id %}|of {{ m.tool_call_id }} {{ m.name }}{% endif %}]{% endfor %}"
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% if enable_thinking is defined %}think={{ enable_thinking }},{{ thinking }},{{ thinking_budget }}{% endif %}"
    "{% if reasoning_effort %}effort={{ reasoning_effort }}{% endif %}>"
)
USER = {"role": "user", "content": "hi"}
CALL = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "one"}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
FORMAT = {"type": "json_schema", "schema": {"type": "object"}}


def served(template: str) -> ServedModel:
    backend = FakeBackend(ctx=0, parallel=1, kv_tokens=0, batch=1)
    info = msgspec.structs.replace(backend.info, chat_template=template)
    return ServedModel(Hello(PROTOCOL_VERSION, 1, 0, info, backend.vocabulary))


def asked(*messages: object, template: str = TEMPLATE, **fields: object) -> GenerationRequest:
    body = {"model": "m", "max_tokens": 9, "messages": list(messages) or [USER], **fields}
    request = msgspec.json.decode(msgspec.json.encode(body), type=MessagesRequest)
    return prepare(request, served(template))


def text_of(request: GenerationRequest) -> str:
    (made,) = request.prompts
    assert isinstance(made, PromptText)
    return made.text


def prompt(*messages: object, **fields: Any) -> str:
    return text_of(asked(*messages, **fields))


def refused(*messages: object, **fields: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        asked(*messages, **fields)
    assert caught.value.param is not None
    assert caught.value.param in str(caught.value), "the message names the field: Anthropic's errors have no param"
    return caught.value.param


def user(*blocks: object) -> dict[str, object]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: object) -> dict[str, object]:
    return {"role": "assistant", "content": list(blocks)}


def text(value: str) -> dict[str, object]:
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    ("system", "rendered"),
    [
        (None, ""),
        ("", ""),
        ("be", "[system|be]"),
        ([text("a"), text("b")], "[system|a\nb]"),
        ([text("x-anthropic-billing-header: cch=1;"), text("b")], "[system|b]"),
    ],
)
def test_the_system_prompt(system: object, rendered: str) -> None:
    assert prompt(system=system) == f"{rendered}[user|hi]>"


def test_messages_as_strings_and_as_blocks() -> None:
    assert prompt(USER, {"role": "assistant", "content": "a"}, user(text("b"), text("c"))) == (
        "[user|hi][assistant|a][user|b\nc]>"
    )


def test_neighbours_of_one_role_are_one_turn_and_system_messages_stand_where_they_stand() -> None:
    messages = [USER, user(text("there")), {"role": "system", "content": [text("now")]}, assistant(text("a")), USER]
    assert prompt(*messages) == "[user|hi\nthere][system|now][assistant|a][user|hi]>"


def test_a_round_of_tools() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    redacted = {"type": "redacted_thinking", "data": "?"}
    said = prompt(USER, assistant(thought, redacted, text("so"), CALL), user(RESULT, text("go on")))
    assert said == '[user|hi][assistant|so|thought hm|call a f {"x": 1}][tool|one|of a f][user|go on]>'


def test_calls_of_neighbouring_messages_are_one_turns() -> None:
    other = {**CALL, "id": "b"}
    said = prompt(USER, assistant(CALL), assistant(other), user({**RESULT, "tool_use_id": "b"}, RESULT))
    assert said == '[user|hi][assistant||call a f {"x": 1}|call b f {"x": 1}][tool|one|of b f][tool|one|of a f]>'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, ""),
        ("one", "one"),
        ([text("one"), text("two")], "one\ntwo"),
        ([{"type": "tool_reference", "tool_name": "g"}], "g"),
        ([{"type": "search_result", "source": "s", "title": "t", "content": [text("c")]}], "t\ns\nc"),
        ([{"type": "document", "title": "t", "source": {"type": "text", "data": "d"}}], "t\nd"),
    ],
)
def test_what_a_tool_may_answer(content: object, told: str) -> None:
    assert prompt(USER, assistant(CALL), user({**RESULT, "content": content})).endswith(f"[tool|{told}|of a f]>")


def test_a_tool_error_is_part_of_the_result() -> None:
    assert "[tool|one|" in str(prompt(USER, user({**RESULT, "tool_use_id": "b"})))
    assert "[tool|Error: one|" in str(prompt(USER, assistant(CALL), user({**RESULT, "is_error": True})))


def test_documents_that_are_text() -> None:
    blocks = {"type": "content", "content": [text("a"), text("b")]}
    assert prompt(user({"type": "document", "context": "c", "source": blocks})) == "[user|c\na\nb]>"
    assert prompt(user({"type": "document", "source": {"type": "content", "content": "a"}})) == "[user|a]>"


@pytest.mark.parametrize(
    ("block", "where"),
    [
        ({"type": "image", "source": {"type": "url", "url": "u"}}, ""),
        ({"type": "document", "source": {"type": "base64", "data": ""}}, ".source"),
        ({"type": "document", "source": {"type": "url", "url": "u"}}, ".source"),
        ({"type": "document", "source": {"type": "file", "file_id": "u"}}, ".source"),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "image"}]}}, ".source.content[0]"),
        (CALL, ""),
        ({"type": "thinking", "thinking": "hm"}, ""),
    ],
)
def test_what_a_users_message_may_not_have(block: object, where: str) -> None:
    assert refused(USER, user(text("see"), block)) == f"messages[1].content[1]{where}"


def test_what_other_messages_may_not_have() -> None:
    assert refused(USER, assistant(CALL), user({**RESULT, "content": [{"type": "image"}]})) == (
        "messages[2].content[0].content[0]"
    )
    assert refused(USER, assistant(RESULT), USER) == "messages[1].content[0]"
    assert refused(USER, assistant(CALL), {"role": "system", "content": [RESULT]}) == "messages[2].content[0]"


def test_the_reply_continues_the_last_messages_text() -> None:
    assert prompt(USER, assistant(text("The best"), text(" is"))) == "[user|hi][assistant|The best is"
    hidden = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}<think>\n"
    assert prompt(USER, assistant(text("x")), template=hidden) == "hi<think>\n</think>\n\nx"
    assert refused(USER, assistant(text("a"), CALL)) == "messages[1].content[1]"


def test_tools() -> None:
    tool = {**TOOL, "type": "custom", "description": "d", "input_examples": [{"x": 1}], "allowed_callers": ["direct"]}
    given = asked(tools=[tool, {**TOOL, "name": "g", "type": None, "defer_loading": True, "strict": True}])
    assert text_of(given) == (
        '[user|hi]{"type": "function", "function": {"name": "f", "description": "d", "parameters": '
        '{"type": "object", "examples": [{"x": 1}]}}}'
        '{"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}>'
    )
    assert given.tools
    assert given.max_tool_calls > 1
    assert asked(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}).max_tool_calls == 1
    none = asked(tools=[TOOL], tool_choice={"type": "none"})
    assert (text_of(none), none.tools) == ("[user|hi]>", ())
    assert not asked(tools=[]).tools


@pytest.mark.parametrize(
    ("tool", "where"),
    [
        ({"type": "web_search_20250305", "name": "web_search"}, ""),
        ({"type": "mcp_toolset"}, ""),
        ({"input_schema": {}}, ".name"),
        ({"name": "f"}, ".input_schema"),
        ({**TOOL, "allowed_callers": ["code_execution_20250825"]}, ".allowed_callers"),
    ],
)
def test_tools_that_are_refused(tool: object, where: str) -> None:
    assert refused(tools=[TOOL, tool]) == f"tools[1]{where}"


@pytest.mark.parametrize(
    ("thinking", "told"),
    [
        (None, ""),
        ({"type": "disabled"}, "think=False,False,0"),
        ({"type": "adaptive"}, "think=True,True,"),
        ({"type": "enabled", "budget_tokens": 2048}, "think=True,True,2048"),
    ],
)
def test_the_template_gets_the_thinking_switch(thinking: object, told: str) -> None:
    assert prompt(thinking=thinking) == f"[user|hi]{told}>"


@pytest.mark.parametrize(("effort", "told"), [("low", "low"), ("high", "high"), ("xhigh", "high"), ("max", "high")])
def test_the_template_gets_the_effort(effort: str, told: str) -> None:
    assert prompt(output_config={"effort": effort}) == f"[user|hi]think=True,True,effort={told}>"


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("all", "AB"),
        ({"type": "all"}, "AB"),
        (None, "B"),
        ({"type": "thinking_turns", "value": 1}, "B"),
        ({"type": "thinking_turns", "value": 2}, "AB"),
    ],
)
def test_earlier_thoughts_are_cleared(keep: object, kept: str) -> None:
    one, two = (assistant({"type": "thinking", "thinking": name}, text("t")) for name in "AB")
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": keep}]}
    said = str(prompt(USER, one, USER, two, USER, context_management=edits))
    assert [name for name in "AB" if f"thought {name}" in said] == list(kept)


def test_the_form_of_the_reply() -> None:
    for fields in ({"output_config": {"format": FORMAT}}, {"output_format": FORMAT}):
        given = asked(tools=[TOOL], tool_choice={"type": "none"}, **fields).params.grammar
        assert given is not None
        assert (given.kind, given.text) == ("json_schema", '{"type":"object"}')
    assert asked().params.grammar is None
    assert refused(output_config={"format": FORMAT}, output_format=FORMAT) == "output_format"
    with_tools = asked(output_format=FORMAT, tools=[TOOL]).params.grammar
    assert with_tools is not None
    assert with_tools.wrapper is not None, "a call may come instead"
    assert refused(USER, assistant(text("{")), output_config={"format": FORMAT}) == "output_config.format.schema"


def test_sampling() -> None:
    given = asked(temperature=0.5, top_p=0.3, top_k=0, stop_sequences=["a", "b"])
    sampling = given.params.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.3, 0)
    assert (given.stops, given.params.max_tokens) == (("a", "b"), 9)
    default = asked(temperature=None, top_p=None, top_k=None, stop_sequences=None).params
    assert default.sampling == Sampling()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speed", "fast"),
        ("mcp_servers", [{"type": "url"}]),
        ("compaction", {"type": "x"}),
        ("container", "c"),
        ("inference_geo", "us"),
        ("thread", {"type": "create"}),
        ("fallbacks", [{"model": "m"}]),
        ("tool_choice", {"type": "tool", "name": "g"}),
    ],
)
def test_fields_that_are_refused(field: str, value: object) -> None:
    assert refused(tools=[TOOL], **{field: value}) == field


def test_parts_of_fields_that_are_refused() -> None:
    assert refused(output_config={"task_budget": {"type": "tokens", "total": 9}}) == "output_config.task_budget"
    for kind in ("clear_tool_uses_20250919", "compact_20260112"):
        assert refused(context_management={"edits": [{"type": kind}]}) == "context_management.edits[0]"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speed", "standard"),
        ("mcp_servers", []),
        ("fallbacks", "default"),
        ("context_management", {"edits": []}),
        ("cache_control", {"type": "ephemeral"}),
        ("metadata", {"user_id": "u"}),
        ("service_tier", "auto"),
        ("diagnostics", {"previous_message_id": "m"}),
        ("billing_policy", {"type": "billing_policy"}),
        ("unheard_of", 1),
    ],
)
def test_fields_without_effect(field: str, value: object) -> None:
    assert asked(**{field: value}) == asked()  # type: ignore[arg-type]  # fields of several types


def test_hidden_thoughts() -> None:
    def hides(thinking: object) -> bool:
        body = {"model": "m", "max_tokens": 9, "messages": [USER], "thinking": thinking}
        return hides_reasoning(msgspec.convert(body, MessagesRequest))

    assert hides({"type": "adaptive", "display": "omitted"})
    assert hides({"type": "enabled", "budget_tokens": 1024, "display": "omitted"})
    assert not hides({"type": "adaptive", "display": "summarized"})
    assert not hides({"type": "disabled"})
    assert not hides(None)


def test_an_empty_message_is_a_message() -> None:
    assert prompt({"role": "user", "content": ""}) == "[user|]>"
    assert prompt(USER, {"role": "assistant", "content": []}, USER) == "[user|hi][assistant|][user|hi]>"
