"""transformers' rendering of chat templates: the reference for ours."""

from __future__ import annotations

import copy
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import setup_peers

# Its only complaint is that torch isn't there, and nothing here needs it.
logging.getLogger("transformers").setLevel(logging.ERROR)

from transformers.utils.chat_template_utils import render_jinja_template  # noqa: E402  # after the log level is set

Message = dict[str, Any]
_render: Any = render_jinja_template

#: Templates written for these tests, and models' own, which llama.cpp's source has. It isn't ours, so it is fetched.
OWN = Path(__file__).parents[1] / "data" / "templates"
FETCHED = setup_peers.fetched() / "models" / "templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather — now & <later>.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city's name."},
                    "days": {"type": "integer", "description": "How many days."},
                },
                "required": ["city"],
            },
        },
    }
]
_CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": 'Rome "é"', "days": 2}},
}


def said(role: str, content: Any, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


_SYSTEM = said("system", 'You answer in verse, and say "é".')
_ASKED = said("user", "How will the weather be in Rome?")
_CALLED = said("assistant", "", tool_calls=[_CALL])
_RESULT = said("tool", '{"sky": "sunny ☀", "degrees": 21}', tool_call_id="call12345", name="weather")
_THOUGHT = said("assistant", "It will be sunny all day.", reasoning_content="The tool says that it is sunny.")

#: Each conversation, whether tools are offered with it, and which field of the last message is continued.
CONVERSATIONS: dict[str, tuple[list[Message], bool, str | None]] = {
    "user": ([_ASKED], False, None),
    "system": ([_SYSTEM, _ASKED], False, None),
    "turns": (
        [_SYSTEM, _ASKED, said("assistant", "It will be sunny."), said("user", "And tomorrow, then?")],
        False,
        None,
    ),
    "spaces": ([said("user", "  \n two spaces before, two behind  \n ")], False, None),
    "marks": ([said("user", "Tags <b>, {{ braces }}, \\ and 'quotes' \"double\"\t日本語 🎉")], False, None),
    "tools": ([_ASKED], True, None),
    "system and tools": ([_SYSTEM, _ASKED], True, None),
    "call": ([_SYSTEM, _ASKED, _CALLED, _RESULT], True, None),
    "result": ([_ASKED, _CALLED, _RESULT, _THOUGHT, said("user", "Thank you very much!")], True, None),
    "call without tools": ([_ASKED, _CALLED, _RESULT], False, None),
    "thought": ([_ASKED, _THOUGHT, said("user", "Thank you very much!")], False, None),
    "thought in the text": (
        [_ASKED, said("assistant", "<think>\nI think.\n</think>\n\nIt will be sunny."), said("user", "Thank you!")],
        False,
        None,
    ),
    "part": ([said("user", parts("How will the weather be?"))], False, None),
    "parts": ([said("user", parts("How will the weather be", " in Rome and in Paris?"))], False, None),
    "continued": ([_SYSTEM, _ASKED, said("assistant", "It will be")], False, "content"),
    "continued space": ([_ASKED, said("assistant", "It will be \n")], False, "content"),
    "continued thought": ([_ASKED, {**_THOUGHT, "content": ""}], False, "reasoning_content"),
    "continued after a thought": ([_ASKED, {**_THOUGHT, "content": "It will"}], False, "content"),
    "continued with tools": ([_ASKED, said("assistant", "Let me look")], True, "content"),
}
#: The other variables that a request may give to a template.
VARIABLES: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": False}, {"enable_thinking": True})


def reference(template: str, name: str, variables: dict[str, Any]) -> str | None:
    """What transformers makes of the conversation, where that is what its model was trained on: None where it refuses,
    leaves a text out, or prints Python's form of an object. Arguments are given as an object or as text, and contents
    as strings or as parts, whichever the template reads.
    """
    messages, offers, continued = CONVERSATIONS[name]
    offered: list[list[dict[str, Any]] | None] = [TOOLS] if offers else [None, []]
    forms = itertools.product(
        (lambda content: content, lambda content: parts(content) if isinstance(content, str) else content),
        (lambda arguments: arguments, lambda arguments: json.dumps(arguments, ensure_ascii=False)),
        offered,
    )
    for content, arguments, tools in forms:
        named = {"xml_tools": tools} if tools and "xml_tools" in template else {}
        try:
            rendered, _ = _render(
                [_in_form(messages, content, arguments)],
                tools=tools,
                chat_template=template,
                add_generation_prompt=continued is None,
                continue_final_message=continued or False,
                **TOKENS,
                **variables,
                **named,
            )
        except Exception:
            continue
        if _is_whole(rendered[0], messages[:-1] if continued else messages):
            return str(rendered[0])
    return None


def _in_form(messages: list[Message], content: Any, arguments: Any) -> list[Message]:
    told = copy.deepcopy(messages)
    for message in told:
        message["content"] = content(message["content"])
        for call in message.get("tool_calls") or ():
            call["function"]["arguments"] = arguments(call["function"]["arguments"])
    return told


def _is_whole(text: str, messages: list[Message]) -> bool:
    if any(printed in text for printed in ("'text': ", '"text": "How will the weather', "{'city'", "'arguments': ")):
        return False
    return all(_has(text, part) for message in messages for part in _texts(message))


def _texts(message: Message) -> list[str]:
    if message.get("tool_calls"):
        return []
    content = message["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return [text.rpartition("</think>")[2].strip() for text in texts]


def _has(text: str, part: str) -> bool:
    return any(form in text for form in (part, json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1]))
