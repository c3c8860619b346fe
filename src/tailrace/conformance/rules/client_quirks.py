"""Fields and values that real clients of OpenAI's chat send, beyond the API's reference."""

from __future__ import annotations

import json
from typing import Any

from tailrace.conformance.assertions import http_bodies
from tailrace.conformance.dialects import OPENAI, Json, find
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.rules.tool_calls import CALL_TOKENS, SCHEMA, TOOL, TOOL_PROMPT
from tailrace.conformance.session import QUESTION, Session, describe

THEME = Theme("Client quirks", OPENAI.name)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

#: More levels than any real schema has; the body stays under a megabyte.
_NESTING = 3_000


def _expect_taken(session: Session, **more: Any) -> str:
    return http_bodies.expect_ok(session.post(OPENAI, session.question_body(OPENAI, limit=4) | more))


def _response_format(schema: Json, *, strict: bool = False) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": strict}}


@rule("whole-floats", 11, "an integer may be written as 4.0", WARNING, "clients without integers: no answer")
def whole_floats(session: Session) -> str:
    body = json.dumps(session.question_body(OPENAI, limit=4)).replace('"max_tokens": 4', '"max_tokens": 4.0')
    return http_bodies.expect_ok(session.post(OPENAI, body.encode()))


@rule(
    "broken-arguments",
    12,
    "an earlier call whose arguments were cut is no reason to refuse",
    ERROR,
    "a call that max_tokens has cut: the conversation fails for ever",
)
def broken_arguments(session: Session) -> str:
    for text in ('{"city": "Par', ""):
        call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": text}}
        history = [
            {"role": "user", "content": "What is the weather in Paris?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "The call was cut off."},
        ]
        reply = session.post(OPENAI, session.question_body(OPENAI, limit=4, messages=history, tools=[TOOL]))
        require(reply.status == 200, f"arguments {text!r} give {describe(reply)}")
    return "cut off, and empty"


@rule(
    "hints",
    12,
    "verbosity and reasoning_effort are taken as hints",
    WARNING,
    "agents made for OpenAI's newer models send them unasked: no answer",
)
def hints(session: Session) -> str:
    return _expect_taken(session, verbosity="low", reasoning_effort="low")


@rule(
    "empty-stop",
    12,
    "an empty stop string is as if it weren't there",
    WARNING,
    "a field left empty: no answer",
)
def empty_stop(session: Session) -> str:
    reply = session.post(OPENAI, session.question_body(OPENAI, limit=4, stop=[""]))
    require(reply.status == 200, describe(reply))
    require(find(reply.json(), "usage", "completion_tokens") != 0, "it has stopped the reply")
    return "200"


@rule("many-stops", 12, "dozens of stop strings are taken", NOTE, "SillyTavern sends dozens: no answer")
def many_stops(session: Session) -> str:
    return _expect_taken(session, stop=[f"{number}" for number in range(40)])


@rule(
    "random-seed",
    11,
    "seed -1 with several choices is no failure of the server",
    WARNING,
    "clients that mean 'any seed' by it",
)
def random_seed(session: Session) -> str:
    reply = session.post(OPENAI, session.question_body(OPENAI, limit=4, seed=-1, n=2))
    require(reply.status < 500, describe(reply))
    return str(reply.status)


@rule(
    "deep-json",
    11,
    "JSON that is nested too deeply is a 4xx",
    ERROR,
    "one request ends the server, or leaves its client without a reason",
)
def deep_json(session: Session) -> str:
    text = '{"type": "array", "items": ' * _NESTING + "{}" + "}" * _NESTING
    body = json.dumps(session.question_body(OPENAI, limit=4, response_format=_response_format({"type": "DEEP"})))
    reply = session.post(OPENAI, body.replace('{"type": "DEEP"}', text).encode())
    require(400 <= reply.status < 500, describe(reply))
    return str(reply.status)


@rule(
    "annotations",
    12,
    "what only describes in a schema never refuses it",
    WARNING,
    "schemas that libraries make (schemars, zod, langchain4j): no answer",
)
def schema_annotations(session: Session) -> str:
    described = {
        "type": "object",
        "title": "A city",
        "properties": {
            "city": {"enum": ["Paris", "Rome"], "description": "Where", "examples": ["Rome"], "deprecated": False},
            "files": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": False, "maxItems": 1},
            "link": {"type": "string", "format": "x-vendor-link", "maxLength": 3, "default": ""},
        },
        "required": ["city"],
    }
    return _expect_taken(session, response_format=_response_format(described), max_tokens=CALL_TOKENS)


@rule(
    "closed-objects",
    None,
    "a schema's object has its own properties and no others, each once",
    WARNING,
    "replies that never end, and fields that aren't in the schema",
)
def closed_objects(session: Session) -> str:
    schema = {**SCHEMA}
    del schema["additionalProperties"]
    body = session.question_body(OPENAI, "Name a city.", limit=CALL_TOKENS, response_format=_response_format(schema))
    reply = session.post(OPENAI, body)
    if reply.status != 200:
        raise NotObserved(f"no reply to a schema: {describe(reply)}")
    if find(reply.json(), "choices", 0, "finish_reason") == "length":
        raise NotObserved("the reply was cut at its token limit")
    said = find(reply.json(), "choices", 0, "message", "content")
    try:
        pairs: list[tuple[str, Any]] = json.loads(said, object_pairs_hook=list)
    except (TypeError, ValueError):
        raise NotObserved(f"the reply is no JSON: {said!r}") from None
    names = [name for name, _ in pairs]
    require(names == ["city"], f"the properties are {names}")
    return f"{said!r}"


@rule(
    "legacy-functions",
    12,
    "functions and function_call work as they did",
    NOTE,
    "older agents (LangChain's) get no call",
)
def legacy_functions(session: Session) -> str:
    fields = {"functions": [TOOL["function"]], "function_call": {"name": "get_weather"}, "max_tokens": CALL_TOKENS}
    reply = session.post(OPENAI, session.question_body(OPENAI, TOOL_PROMPT) | fields)
    require(reply.status == 200, describe(reply))
    call = find(reply.json(), "choices", 0, "message", "function_call")
    require(find(call, "name") == "get_weather", f"function_call is {call!r}")
    return str(find(call, "arguments"))


@rule(
    "known-calls",
    24,
    "a call's name is one that was offered, and its arguments fit the schema",
    WARNING,
    "agents get calls of tools that don't exist",
)
def known_calls(session: Session) -> str:
    body = session.question_body(
        OPENAI, TOOL_PROMPT, limit=CALL_TOKENS, tools=[TOOL], tool_choice="auto", temperature=1.5, seed=7
    )
    reply = session.post(OPENAI, body)
    require(reply.status == 200, describe(reply))
    calls = find(reply.json(), "choices", 0, "message", "tool_calls") or []
    if not calls or find(reply.json(), "choices", 0, "finish_reason") == "length":
        raise NotObserved("the model made no whole call")
    for call in calls:
        name = find(call, "function", "name")
        require(name == "get_weather", f"the name is {name!r}")
        text = find(call, "function", "arguments")
        if not isinstance(text, str):
            raise NotObserved("the arguments are no text")
        try:
            given = json.loads(text)
        except ValueError:
            given = None
        require(find(given, "city") in SCHEMA["properties"]["city"]["enum"], f"the arguments are {given!r}")
    return f"{len(calls)} calls"


@rule(
    "text-kept",
    12,
    "a text is never left out of the prompt in silence",
    ERROR,
    "the model answers without the question",
)
def text_kept(session: Session) -> str:
    """A longer text in content parts gives a longer prompt."""
    counts = []
    for text in (QUESTION, QUESTION + " Mention gulls, sand, salt, foam and a lighthouse."):
        parts = [{"type": "text", "text": text}]
        reply = session.post(
            OPENAI, session.question_body(OPENAI, limit=4, messages=[{"role": "user", "content": parts}])
        )
        require(reply.status == 200 or reply.status == 400, describe(reply))
        if reply.status == 400:
            return "refused with a 400"
        counts.append(find(reply.json(), "usage", "prompt_tokens"))
    if any(type(count) is not int for count in counts):
        raise NotObserved("the reply tells no prompt_tokens")
    require(counts[1] > counts[0], f"both prompts have {counts[0]} tokens")
    return f"{counts[0]} and {counts[1]} tokens"


@rule(
    "cached-tokens",
    None,
    "cached_tokens are fewer than the prompt's, and none without a cache",
    WARNING,
    "clients that show or bill cached tokens tell a wrong number",
)
def cached_tokens(session: Session) -> str:
    """Sends the same prompt twice, then a prompt with another prefix."""
    text = " ".join(f"item{number}" for number in range(60))
    seen = []
    for prompt in (text, text, f"other {text}"):
        reply = session.post(OPENAI, session.question_body(OPENAI, prompt, limit=4))
        usage = find(reply.json(), "usage")
        cached = find(usage, "prompt_tokens_details", "cached_tokens")
        whole = find(usage, "prompt_tokens")
        if type(cached) is not int or type(whole) is not int:
            raise NotObserved("the reply tells no cached_tokens")
        require(0 <= cached < whole, f"{cached} of {whole} prompt tokens were cached")
        seen.append(f"{cached} of {whole}")
    return ", ".join(seen)


@rule(
    "required-keys",
    26,
    "a choice has logprobs, and its message refusal, null where there is nothing",
    NOTE,
    "strictly typed clients fail to read the reply",
)
def required_keys(session: Session) -> str:
    choice = find(session.plain_answer(OPENAI), "choices", 0)
    require(isinstance(choice, dict) and "logprobs" in choice, "the choice has no logprobs")
    require("refusal" in (find(choice, "message") or {}), "the message has no refusal")
    return "both are there"
