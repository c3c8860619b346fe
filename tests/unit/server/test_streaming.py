"""A stream's ticks: silent streams, clients that fall behind, and clients that catch up."""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.types import Message, Scope

from tailrace.errors import RequestError, SlowReader
from tailrace.server.caller import Caller, set_caller
from tailrace.server.dialects.openai.chat import ChatStream
from tailrace.server.dialects.openai.reply import ReplyHead
from tailrace.server.events import EventSink, Finish, TextDelta, Usage
from tailrace.server.generation import Generation
from tailrace.server.request_cycle import CHUNKED_BODY, ChunkedBody
from tailrace.server.streaming import EventStream


class Body:
    """A body whose client takes what a test says it takes."""

    def __init__(self) -> None:
        self.pieces = 0
        self.waiting_bytes = 0

    def write(self, piece: bytes) -> None:
        self.pieces += 1
        self.waiting_bytes += 1


class Failing:
    """A generation that only fails."""

    def __init__(self) -> None:
        self.errors: list[RequestError] = []

    def fail(self, error: RequestError) -> None:
        self.errors.append(error)


def stream(bound: int = 10) -> tuple[EventStream, Body, Failing]:
    encoder = ChatStream(ReplyHead("chatcmpl", "m"), 1, wants_usage=False, comments=False)
    generation, body = Failing(), Body()
    events = EventStream(cast(Generation, generation), encoder, keepalive_seconds=1.0, bound=bound)
    events.chunks = cast(ChunkedBody, body)
    return events, body, generation


def say(events: EventStream, count: int) -> None:
    for _ in range(count):
        events.emit(TextDelta(0, "x"))


def test_a_burst_is_no_slow_reader_while_it_is_being_read() -> None:
    events, body, generation = stream()
    say(events, 1000)
    for waiting in (1000, 700, 300, 100, 0):
        body.waiting_bytes = waiting
        events.tick(0.5)
    assert generation.errors == []


def test_a_client_over_the_bound_that_does_not_catch_up_is_cut_off() -> None:
    events, body, generation = stream()
    say(events, 11)
    events.tick(0.5)
    assert generation.errors == []
    say(events, 1)
    body.waiting_bytes = 11
    events.tick(0.5)
    (error,) = generation.errors
    assert isinstance(error, SlowReader)


def test_a_client_within_the_bound_goes_on() -> None:
    events, body, generation = stream()
    for _ in range(5):
        say(events, 1)
        body.waiting_bytes = 10
        events.tick(0.5)
    assert generation.errors == []


def test_a_silent_stream_gets_a_sign_of_life_each_time_the_silence_is_long_enough() -> None:
    events, body, _ = stream()
    say(events, 1)
    sent = []
    for _ in range(7):
        before = body.pieces
        events.tick(0.5)
        sent.append(body.pieces - before)
    assert sent == [0, 0, 1, 0, 1, 0, 1]
    say(events, 1)
    sent = []
    for _ in range(3):
        before = body.pieces
        events.tick(0.5)
        sent.append(body.pieces - before)
    assert sent == [0, 0, 1]


def test_the_last_event_is_held_until_what_comes_before_it_is_done() -> None:
    sent: list[bytes] = []
    order: list[str] = []

    class Ended:
        def attach(self, sink: EventSink) -> None:
            for event in (TextDelta(0, "x"), Finish(0, "stop"), Usage(1, 1, 0)):
                sink.emit(event)

        async def finished(self) -> None:
            order.append(f"{len(sent)} pieces")

        def cancel(self) -> None:
            pass

    class Chunks(Body):
        def write(self, piece: bytes) -> None:
            sent.append(piece)

    async def before_end() -> None:
        order.append(f"before the end, {len(sent)} pieces")

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        order.append(message["type"])

    encoder = ChatStream(ReplyHead("chatcmpl", "m"), 1, wants_usage=True, comments=False)
    events = EventStream(cast(Generation, Ended()), encoder, keepalive_seconds=1.0, bound=10, before_end=before_end)
    scope: Scope = {"extensions": {CHUNKED_BODY: {"body": Chunks()}}}
    set_caller(scope, Caller(""))
    asyncio.run(events(scope, receive, send))
    held = len(sent)
    assert b'"usage"' in sent[-1]
    assert order == [
        "http.response.start",
        f"{held - 1} pieces",
        f"before the end, {held - 1} pieces",
        "http.response.body",
    ]
