"""Judgements that several dialects' rules share. Each says what it saw, and raises Broken when that is against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tailrace.conformance.connection import Reply
from tailrace.conformance.dialects import Dialect, find
from tailrace.conformance.events import Event, Stream
from tailrace.conformance.rule import Broken, NotSeen, expect
from tailrace.conformance.session import Session, shown, summary

#: one-api's scanner ends a stream at a line of 64 KiB; this leaves room for the prefix and the line's end.
LONGEST_LINE = 60_000
#: Words of errors on which one-api disables the channel that told them.
DISABLING = (b"credit", b"balance", b"permission denied")


# Answers


def answers(session: Session, dialect: Dialect) -> str:
    """The plain question is answered with 200 and JSON of the dialect's shape."""
    reply = session.answer(dialect)
    expect(reply.status == 200, summary(reply))
    expect(reply.media_type.lower() == "application/json", f"content-type: {reply.header('content-type')}")
    text = dialect.text(reply.json())
    if text is None:
        raise Broken(f"no such answer: {shown(reply.body)}")
    return f"200, {text[:40]!r}" if text else "200"


def accepted(session: Session, reply: Reply) -> str:
    """A request that had to be taken was answered with 200."""
    expect(reply.status == 200, summary(reply))
    return "200"


def refused(dialect: Dialect, reply: Reply, statuses: Iterable[int] = range(400, 500)) -> str:
    """A refusal: one of ``statuses``, as JSON in the dialect's shape."""
    expect(reply.status in statuses, summary(reply))
    expect(
        reply.media_type.lower() == "application/json",
        f"{reply.status} with content-type: {reply.header('content-type')}",
    )
    fault = dialect.fault(reply.json())
    expect(fault is None, f"{reply.status}, but {fault}")
    return str(reply.status)


def named(reply: Reply, field: str, value: str) -> str:
    """A 400 (or 422) whose error names the field."""
    asked = f"{field}: {value}"
    expect(reply.status in (400, 422), f"{asked} gave {summary(reply)}")
    expect(field.encode() in reply.body, f"{asked} gave an error without its name: {summary(reply)}")
    return f"{asked} gives {reply.status}"


def counts(usage: Any, *names: str) -> str:
    """Every name of ``usage`` is an integer over zero."""
    for name in names:
        value = find(usage, name)
        expect(type(value) is int and value > 0, f"{name} is {value!r}")
    return ", ".join(f"{name} {usage[name]}" for name in names)


def total(usage: Any) -> str:
    """OpenAI's three counts, of which the third is the sum."""
    seen = counts(usage, "prompt_tokens", "completion_tokens", "total_tokens")
    fits = usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    expect(fits, f"{seen}: the total isn't the sum")
    return seen


# Heads of streams


def status(stream: Stream) -> str:
    """A streamed question is answered with 200."""
    expect(stream.reply.status == 200, summary(stream.reply))
    return "200"


def media_type(stream: Stream, dialect: Dialect) -> str:
    """The content type, as clients compare it."""
    value = stream.reply.header("content-type")
    expect(stream.reply.media_type == dialect.media_type, f"content-type: {value}")
    return str(value)


def cache_control(stream: Stream) -> str:
    """Nobody in between keeps the stream."""
    value = stream.reply.header("cache-control")
    expect("no-cache" in (value or "") or "no-store" in (value or ""), f"cache-control: {value}")
    return str(value)


def buffering(stream: Stream) -> str:
    """nginx is told not to gather the stream."""
    value = stream.reply.header("x-accel-buffering")
    expect(value == "no", f"x-accel-buffering: {value}")
    return str(value)


def uncompressed(stream: Stream) -> str:
    """No compression, though it was offered."""
    value = stream.reply.header("content-encoding")
    expect(value in (None, "identity"), f"content-encoding: {value}")
    return "none, though gzip was offered"


def end(stream: Stream) -> str:
    """Chunked, with exactly one terminating chunk and nothing behind it."""
    reply = stream.reply
    expect(not reply.broken, reply.broken)
    length = reply.header("content-length")
    expect(length is None, f"content-length: {length}")
    expect(reply.framing == "chunked", "no chunks: only the closed connection tells the end from a failure")
    expect(not reply.rest, f"behind the terminating chunk: {shown(reply.rest)}")
    return f"{len(reply.chunks)} chunks and one that ends them"


def head(stream: Stream, dialect: Dialect) -> str:
    """Everything about a stream's head and end without which a client fails."""
    seen = [status(stream), media_type(stream, dialect), end(stream)]
    uncompressed(stream)
    return ", ".join(seen)


def proxies(stream: Stream) -> str:
    """Proxies in between are told neither to keep nor to gather the stream."""
    return f"{cache_control(stream)}, {buffering(stream)}"


# Events


def prefix(streams: Sequence[Stream]) -> str:
    """Every data line begins with the six bytes ``data: ``."""
    lines = 0
    for stream in streams:
        for line in _lines(stream):
            if line.startswith(b"data"):
                expect(line.startswith(b"data: "), shown(line))
                lines += 1
    return f"{lines} lines begin with 'data: '"


def line_feeds(streams: Sequence[Stream]) -> str:
    """Lines end in LF alone, events in two."""
    for stream in streams:
        for event in stream.events:
            expect(b"\r" not in event.raw, f"a carriage return: {shown(event.raw)}")
            expect(event.raw.endswith(b"\n\n"), f"no blank line behind {shown(event.raw)}")
            expect(not event.raw.endswith(b"\n\n\n"), f"a blank line too many behind {shown(event.raw)}")
    return f"{sum(len(stream.events) for stream in streams)} events end in two LF"


def one_data_line(streams: Sequence[Stream]) -> str:
    """Each event's data is one line of JSON that is an object, or ``[DONE]``."""
    count = 0
    for stream in streams:
        for event in stream.events:
            data = event.fields(b"data")
            if not data:
                continue
            expect(len(data) == 1, f"an event of {len(data)} data lines: {shown(event.raw)}")
            expect(event.object is not None or event.data == "[DONE]", f"no JSON object: {shown(event.raw)}")
            count += 1
    return f"{count} events of one line of JSON"


def no_other_fields(streams: Sequence[Stream]) -> str:
    """No line of an event is of another field than data. (Comments have a rule of their own.)"""
    for stream in streams:
        for line in _lines(stream):
            expect(line.startswith((b"data", b":")), f"a line {shown(line)}")
    return "no event:, id: or retry: line"


def one_event_a_write(streams: Sequence[Stream]) -> str:
    """Each chunk of the transfer encoding is exactly one event."""
    count = 0
    for stream in streams:
        if stream.reply.framing != "chunked":
            continue
        position = 0
        starts = {event.start for event in stream.events}
        for chunk in stream.reply.chunks:
            if position not in starts:
                raise Broken(f"a chunk begins within an event: {shown(chunk.data)}")
            inside = sum(position <= start < position + len(chunk.data) for start in starts)
            expect(inside == 1, f"{inside} events in one chunk: {shown(chunk.data)}")
            position += len(chunk.data)
            count += 1
    if not count:
        raise NotSeen("the body isn't chunked, so writes can't be told apart")
    return f"{count} chunks, each one event"


def line_length(streams: Sequence[Stream]) -> str:
    """The longest line."""
    longest = max((len(line) for stream in streams for line in _lines(stream)), default=0)
    expect(longest < LONGEST_LINE, f"a line of {longest} bytes")
    return f"the longest of all streams here has {longest} bytes"


def utf8(streams: Sequence[Stream]) -> str:
    """Every event is valid UTF-8 by itself, and so is what its JSON says; no U+FFFD."""
    foreign = 0
    for stream in streams:
        for event in stream.events:
            try:
                event.raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise Broken(f"{error.reason} in {shown(event.raw)}") from None
            for text in _strings(event.object):
                expect("�" not in text, f"U+FFFD in {shown(event.raw)}")
                expect(not any("\ud800" <= letter <= "\udfff" for letter in text), f"half a pair: {shown(event.raw)}")
                foreign += sum(letter > "\x7f" for letter in text)
    if not foreign:
        raise NotSeen("the model wrote no character outside of ASCII")
    return f"{foreign} characters outside of ASCII, all whole"


def one_value(streams: Sequence[Stream], name: str, kind: type) -> str:
    """``name`` is of that type and the same in every chunk of a stream."""
    seen: Any = None
    for stream in streams:
        values = [value.get(name) for value in chunks(stream)]
        for value in values:
            expect(type(value) is kind and value != "", f"{name} is {value!r}")
        others = [value for value in values if value != values[0]]
        expect(not others, f"{name} changes: {values[0]!r}, {others[0]!r}" if others else "")
        seen = values[0]
    return repr(seen)


def done(streams: Sequence[Stream]) -> str:
    """Exactly one ``[DONE]``, and nothing behind it."""
    for stream in streams:
        if stream.failed is not None:
            continue  # A failure has to look different; see the rule for it.
        expect(stream.done == 1, f"{stream.done} times [DONE] ({stream.label})")
        expect(stream.events[-1].data == "[DONE]", f"behind [DONE]: {shown(stream.events[-1].raw)}")
    return "one, at the end"


# Choices (chat and text completions)


def chunks(stream: Stream) -> list[dict[str, Any]]:
    """The stream's chunks: all objects but one that tells an error."""
    return [value for value in stream.objects if "error" not in value or value["error"] is None]


def choices(stream: Stream) -> list[dict[str, Any]]:
    """All choices of all chunks, in order."""
    return [
        choice
        for value in chunks(stream)
        for choice in (value["choices"] if isinstance(value.get("choices"), list) else [])
        if isinstance(choice, dict)
    ]


def finish_key(streams: Sequence[Stream]) -> str:
    """Every choice has the key ``finish_reason``."""
    count = 0
    for stream in streams:
        for choice in choices(stream):
            expect("finish_reason" in choice, f"a choice without it: {shown(json.dumps(choice))}")
            count += 1
    return f"in all {count} choices"


def one_finish(streams: Sequence[Stream]) -> str:
    """Exactly one choice of a stream has a reason, the last one."""
    for stream in streams:
        if stream.failed is not None:
            continue
        reasons = [choice.get("finish_reason") for choice in choices(stream)]
        given = [reason for reason in reasons if reason is not None]
        expect(len(given) == 1, f"{len(given)} finish reasons: {given} ({stream.label})")
        expect(reasons[-1] is not None, f"choices go on behind the finish ({stream.label})")
    return "one, in the last choice"


def finish_values(streams: Sequence[Stream], known: Sequence[str]) -> str:
    """Reasons that clients know."""
    seen = {choice["finish_reason"] for stream in streams for choice in choices(stream) if choice.get("finish_reason")}
    if not seen:
        raise NotSeen("no reply finished")
    strange = [reason for reason in seen if reason not in known]
    expect(not strange, f"finish_reason: {strange[0] if strange else ''}")
    return ", ".join(sorted(seen))


def no_usage_unasked(stream: Stream) -> str:
    """Usage that nobody asked for isn't sent."""
    for value in stream.objects:
        expect(value.get("usage") is None, f"usage: {shown(json.dumps(value['usage']))}" if value.get("usage") else "")
    return "none"


def usage_chunk(stream: Stream) -> str:
    """Usage that was asked for comes once, in a last chunk without choices, behind the finish."""
    told = [value for value in stream.objects if value.get("usage") is not None]
    expect(told, "no usage, though stream_options.include_usage asked for it")
    expect(len(told) == 1, f"usage in {len(told)} chunks")
    expect(told[0].get("choices") == [], f"usage in a chunk with choices: {shown(json.dumps(told[0]))}")
    expect(stream.objects[-1] is told[0], "something stands between usage and [DONE]")
    return "in a last chunk of its own, choices []"


def usage_of(stream: Stream) -> Any:
    """The usage that the stream told, for ``total``. Raises NotSeen."""
    told = [value["usage"] for value in stream.objects if value.get("usage") is not None]
    if not told:
        raise NotSeen("no usage was sent")
    return told[-1]


def error_in_stream(streams: Sequence[Stream]) -> str:
    """A failure after the headers: told without choices, with its text shown before, and no success behind it."""
    failed = [stream for stream in streams if stream.failed is not None]
    if not failed:
        raise NotSeen("no stream failed")
    for stream in failed:
        error = stream.failed or {}
        expect("choices" not in error, f"the error's event has choices: {shown(json.dumps(error))}")
        expect(stream.objects[-1] is error, "something comes behind the error")
        expect(not stream.done, "[DONE] behind an error")
        reasons = [choice["finish_reason"] for choice in choices(stream) if choice.get("finish_reason")]
        expect(not reasons, f"finish_reason {reasons} beside an error")
        message = find(error, "error", "message")
        text = "".join(find(choice, "delta", "content") or choice.get("text") or "" for choice in choices(stream))
        expect(isinstance(message, str) and message in text, "the error's text isn't in the visible content")
    return f"{len(failed)} streams failed, and said so"


# Waiting


def silences(streams: Sequence[Stream], silence: float, is_sign: Callable[[Event], bool] | None = None) -> str:
    """No stream was silent for too long without a sign of life; ``is_sign`` knows the dialect's."""
    is_sign = is_sign or is_sign_of_life
    longest = 0.0
    signs = 0
    for stream in streams:
        spoken = at = stream.reply.head_at
        since = 0  # signs of life since something was said
        for event in [*stream.events, None]:
            now = event.at if event is not None else stream.reply.ended_at or at
            # Half as much again: what is sent at the right moment may arrive a little later.
            expect(now - at <= silence * 1.5, f"silent for {now - at:.1f} s ({stream.label})")
            at = now
            if event is not None and is_sign(event):
                since += 1
                continue
            longest = max(longest, now - spoken)
            # Of an empty chunk that isn't in a silence nobody knows what it is for.
            signs += since if now - spoken > silence else 0
            spoken, since = now, 0
    if not signs:
        raise NotSeen(f"nothing took over {silence:g} s; the longest wait was {longest:.1f} s (--long-prompt)")
    return f"{signs} signs of life in waits of up to {longest:.1f} s"


def is_sign_of_life(event: Event) -> bool:
    """Whether the event is there only to be one: a comment, a ping, or a chunk with empty content and no role."""
    value = event.object
    if event.data is None:
        return event.raw.startswith(b":")
    if value is None:
        return False
    if value.get("type") == "ping":
        return True
    delta = find(value, "choices", 0, "delta")
    return delta == {"content": ""} and find(value, "choices", 0, "finish_reason") is None


def _lines(stream: Stream) -> list[bytes]:
    return [line for event in stream.events for line in event.lines]


def _strings(value: Any) -> Iterable[str]:
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            stack += part.values()
        elif isinstance(part, list):
            stack += part
