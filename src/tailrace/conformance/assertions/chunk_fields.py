"""Assertions on the JSON of OpenAI's chunks: ids, choices, finish reasons, usage, errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tailrace.conformance.dialects import find
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import NotObserved, require
from tailrace.conformance.session import excerpt


def chunks_of(stream: RecordedStream) -> list[dict[str, Any]]:
    """The stream's chunks: all objects but errors."""
    return [value for value in stream.objects if "error" not in value or value["error"] is None]


def choices_of(stream: RecordedStream) -> list[dict[str, Any]]:
    """All choices of all chunks, in order."""
    return [
        choice
        for value in chunks_of(stream)
        for choice in (value["choices"] if isinstance(value.get("choices"), list) else [])
        if isinstance(choice, dict)
    ]


def expect_finish_key(streams: Sequence[RecordedStream]) -> str:
    """Every choice has the field ``finish_reason``."""
    count = 0
    for stream in streams:
        for choice in choices_of(stream):
            require("finish_reason" in choice, f"a choice without it: {excerpt(json.dumps(choice))}")
            count += 1
    return f"in all {count} choices"


def expect_one_finish(streams: Sequence[RecordedStream]) -> str:
    """Exactly one choice of a stream has a finish reason: the last one."""
    for stream in streams:
        if stream.error is not None:
            continue
        reasons = [choice.get("finish_reason") for choice in choices_of(stream)]
        given = [reason for reason in reasons if reason is not None]
        require(len(given) == 1, f"{len(given)} finish reasons: {given} ({stream.label})")
        require(reasons[-1] is not None, f"choices go on behind the finish ({stream.label})")
    return "one, in the last choice"


def expect_known_finish(streams: Sequence[RecordedStream], known: Sequence[str]) -> str:
    """All finish reasons are in ``known``."""
    seen = {
        choice["finish_reason"] for stream in streams for choice in choices_of(stream) if choice.get("finish_reason")
    }
    if not seen:
        raise NotObserved("no reply finished")
    unknown = [reason for reason in seen if reason not in known]
    require(not unknown, f"finish_reason: {unknown[0] if unknown else ''}")
    return ", ".join(sorted(seen))


def expect_no_usage(stream: RecordedStream) -> str:
    """Usage isn't sent unless the request asks for it."""
    for value in stream.objects:
        require(
            value.get("usage") is None, f"usage: {excerpt(json.dumps(value['usage']))}" if value.get("usage") else ""
        )
    return "none"


def expect_usage_chunk(stream: RecordedStream) -> str:
    """Requested usage comes once, in the last chunk, which has no choices."""
    with_usage = [value for value in stream.objects if value.get("usage") is not None]
    require(with_usage, "no usage, though stream_options.include_usage asked for it")
    require(len(with_usage) == 1, f"usage in {len(with_usage)} chunks")
    require(with_usage[0].get("choices") == [], f"usage in a chunk with choices: {excerpt(json.dumps(with_usage[0]))}")
    require(stream.objects[-1] is with_usage[0], "something stands between usage and [DONE]")
    return "in a last chunk of its own, choices []"


def usage_of(stream: RecordedStream) -> Any:
    """The usage in the stream. Raises NotObserved without one."""
    with_usage = [value["usage"] for value in stream.objects if value.get("usage") is not None]
    if not with_usage:
        raise NotObserved("no usage was sent")
    return with_usage[-1]


def expect_error_chunk(streams: Sequence[RecordedStream]) -> str:
    """A failure after the headers: its text as content, then an error without choices, and no sign of success."""
    failed = [stream for stream in streams if stream.error is not None]
    if not failed:
        raise NotObserved("no stream failed")
    for stream in failed:
        error = stream.error or {}
        require("choices" not in error, f"the error's event has choices: {excerpt(json.dumps(error))}")
        require(stream.objects[-1] is error, "something comes behind the error")
        require(not stream.done_count, "[DONE] behind an error")
        reasons = [choice["finish_reason"] for choice in choices_of(stream) if choice.get("finish_reason")]
        require(not reasons, f"finish_reason {reasons} beside an error")
        message = find(error, "error", "message")
        text = "".join(find(choice, "delta", "content") or choice.get("text") or "" for choice in choices_of(stream))
        require(isinstance(message, str) and message in text, "the error's text isn't in the visible content")
    return f"{len(failed)} streams failed, and said so"


def expect_constant(streams: Sequence[RecordedStream], name: str, kind: type) -> str:
    """The field ``name`` has that type, and the same value in every chunk of a stream."""
    seen: Any = None
    for stream in streams:
        values = [value.get(name) for value in chunks_of(stream)]
        for value in values:
            require(type(value) is kind and value != "", f"{name} is {value!r}")
        others = [value for value in values if value != values[0]]
        require(not others, f"{name} changes: {values[0]!r}, {others[0]!r}" if others else "")
        seen = values[0]
    return repr(seen)
