"""Faults in OpenAI's tool calls."""

from __future__ import annotations

import json
from collections.abc import Callable

from fault_rules import CHAT, at, delta, fault, has, objects, pieces, put, streams, whole
from model_server import Alter, Json


def _fragments(change: Callable[[Json], object]) -> Alter:
    def one(choice: Json, found: Json) -> None:
        for fragment in found.get("tool_calls", []):
            change(fragment)

    return objects(streams(CHAT), delta(one))


def _first(name: str, value: object) -> Alter:
    def change(fragment: Json) -> None:
        if "id" in fragment:
            (fragment["function"] if name in ("name", "arguments") else fragment)[name] = value

    return _fragments(change)


fault("tool-first", "arguments", _first("arguments", " "))
fault("tool-first", "no type", _first("type", None))
fault("tool-first", "no id", _first("id", None))
fault("tool-first", "name", _first("name", ""))
fault("tool-later", "id", _fragments(lambda fragment: fragment.setdefault("id", "call-1")))
fault("tool-later", "name", _fragments(lambda fragment: fragment["function"].setdefault("name", "get_weather")))


def _two_in_one(found: list[bytes]) -> list[bytes]:
    calls = [place for place, piece in enumerate(found) if b'tool_calls": [' in piece]
    if len(calls) < 3:
        return found
    one, other = (json.loads(found[place][6:]) for place in calls[1:3])
    one["choices"][0]["delta"]["tool_calls"] += other["choices"][0]["delta"]["tool_calls"]
    return [*found[: calls[1]], b"data: " + json.dumps(one).encode() + b"\n\n", *found[calls[2] + 1 :]]


def _cut_arguments(fragment: Json) -> None:
    fragment["function"]["arguments"] = fragment["function"]["arguments"].replace("}", "")


def _whole_call(change: Callable[[Json], object]) -> Alter:
    def alter(body: Json) -> None:
        for call in body["choices"][0]["message"].get("tool_calls", []):
            change(call)

    return whole(at(CHAT), alter)


def finish(chunk: Json, reason: str) -> Json:
    for choice in chunk["choices"]:
        if choice["finish_reason"]:
            choice["finish_reason"] = reason
    return chunk


with_tools = has(CHAT, lambda body: body.get("tools") and body.get("stream"))
fault("tool-one-a-chunk", "two", pieces(with_tools, _two_in_one))
fault("tool-arguments", "cut", _fragments(_cut_arguments))
fault("tool-finish", "stop", objects(with_tools, lambda chunk: finish(chunk, "stop")))
fault("tool-whole", "an object", _whole_call(lambda call: put(call["function"], "arguments", {"city": "Paris"})))
fault("tool-whole", "no id", _whole_call(lambda call: call.pop("id")))
