"""A stream that waits for its model: when its head goes out, and what may follow it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from starlette.responses import Response

from tailrace.errors import ModelLoadFailed
from tailrace.server.events import Event, Failure, KeepAlive
from tailrace.server.request_cycle import ChunkedBody
from tailrace.server.waiting_stream import EncoderOpening, WaitingStream


class Encoder:
    def start(self) -> list[bytes]:
        return [b"start "]

    def encode(self, event: Event) -> list[bytes]:
        if isinstance(event, Failure):
            return [event.error.message.encode()]
        assert isinstance(event, KeepAlive)
        return [b"alive "]

    def end(self) -> bytes:
        return b" end"


class Client:
    """What a client gets; its connection takes nothing while ``blocked``."""

    def __init__(self) -> None:
        self.heads = 0
        self.body = b""
        self.ended = False
        self.free = asyncio.Event()
        self.free.set()

    async def send(self, message: Any) -> None:
        await self.free.wait()
        if message["type"] == "http.response.start":
            self.heads += 1
        else:
            self.ended = not message["more_body"]

    def write(self, piece: bytes) -> None:
        assert self.heads
        self.body += piece


def stream(client: Client, *, starts: bool = True, seconds: float = 0.01) -> WaitingStream:
    body = cast(ChunkedBody, client)
    return WaitingStream(client.send, body, lambda: EncoderOpening(Encoder(), starts=starts), [], seconds)


def run(scene: Callable[[Client], Awaitable[None]]) -> None:
    async def inside() -> None:
        await asyncio.wait_for(scene(Client()), 60)

    asyncio.run(inside())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_model_that_is_there_soon_leaves_no_trace() -> None:
    async def scene(client: Client) -> None:
        waiting = stream(client, seconds=600.0)
        waiting.begin()
        assert not await waiting.hand_over()
        assert (client.heads, client.body, waiting.has_started) == (0, b"", False)

    run(scene)


def test_keep_alives_stop_when_the_reply_takes_over() -> None:
    async def scene(client: Client) -> None:
        waiting = stream(client)
        waiting.begin()
        await until(lambda: client.body.startswith(b"start alive alive "))
        assert await waiting.hand_over()
        assert waiting.has_started
        before = client.body
        await asyncio.sleep(0.05)
        assert (client.heads, client.body) == (1, before)

    run(scene)


def test_a_start_that_needs_the_reply_is_left_to_it() -> None:
    async def scene(client: Client) -> None:
        waiting = stream(client, starts=False)
        waiting.begin()
        await until(lambda: client.body.startswith(b"alive alive "))
        assert await waiting.hand_over()
        assert not waiting.has_started

    run(scene)


def test_a_model_that_is_there_before_the_opening_ends_the_wait_for_good() -> None:
    async def scene(client: Client) -> None:
        waiting = stream(client, seconds=0.02)
        waiting.begin()
        await waiting.has_waited()
        await asyncio.sleep(0.05)
        assert client.heads == 0

    run(scene)


def test_a_head_that_is_on_its_way_is_waited_for() -> None:
    """Otherwise the response would have two heads."""

    async def scene(client: Client) -> None:
        client.free.clear()
        waiting = stream(client)
        waiting.begin()
        await asyncio.sleep(0.05)
        taken = asyncio.ensure_future(waiting.hand_over())
        await asyncio.sleep(0.01)
        assert not taken.done()
        client.free.set()
        assert await taken
        assert client.heads == 1

    run(scene)


def test_an_open_stream_ends_with_an_error_or_with_a_plain_body() -> None:
    async def scene(client: Client) -> None:
        waiting = stream(client)
        waiting.begin()
        await until(lambda: client.heads == 1)
        await waiting.hand_over()
        await waiting.fail(ModelLoadFailed("broken"))
        assert client.body.endswith(b"broken end")
        assert client.ended
        other = Client()
        waiting = stream(other)
        waiting.begin()
        await until(lambda: other.heads == 1)
        response = await waiting.continued(Response(b"{}\n"))
        await response({}, cast(Any, None), other.send)
        assert other.body.endswith(b"{}\n")
        assert (other.heads, other.ended) == (1, True)

    run(scene)
