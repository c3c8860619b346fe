"""The HTTP process's end of the socket: submit → engine messages, cancel, and what happens when the engine dies.

One engine is connected at a time. Every submitted id's messages go to the ``Mailbox`` it was submitted with; when the
connection ends, every mailbox learns it, so that each request ends in one terminal event whatever dies.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import cast

import structlog

from tailrace.chat.detokenize import Vocabulary
from tailrace.chat.template import ChatTemplate
from tailrace.errors import EngineDied, EngineUnavailable, ModelError, ProtocolError
from tailrace.ipc import FrameDecoder, frame
from tailrace.messages import (
    PROTOCOL_VERSION,
    Accepted,
    Beat,
    Cancel,
    FromEngine,
    Hello,
    ModelInfo,
    Refused,
    Step,
    Submit,
)
from tailrace.server.mailbox import Begun, End, Mailbox, Silence

#: How often mailboxes are looked at, at least.
_TICK_SECONDS = 0.5


class ServedModel:
    """What one Hello brought, made ready for use."""

    def __init__(self, hello: Hello) -> None:
        self.info: ModelInfo = hello.model
        self.vocabulary = Vocabulary(hello.vocabulary)
        self.template = ChatTemplate(
            hello.model.chat_template, bos_token=hello.model.bos_token, eos_token=hello.model.eos_token
        )


class EngineClient:
    """The way to the engine. ``on_ready`` is called with every engine that has said Hello, ``on_unusable`` when its
    model can't be used here, which another engine wouldn't change.
    """

    def __init__(self, *, wait_seconds: float, stall_seconds: float, silence_seconds: float) -> None:
        self.beat: Beat | None = None
        self.model: ServedModel | None = None  #: the last engine's; kept while a new one starts
        self.engine_pid: int | None = None
        self.engine_starts = 0
        self.on_ready: Callable[[ServedModel], None] | None = None
        self.on_unusable: Callable[[ModelError], None] | None = None
        self._wait_seconds = wait_seconds
        self._stall_seconds = stall_seconds
        self._silence_seconds = silence_seconds
        self._tick_seconds = min(_TICK_SECONDS, silence_seconds / 4)
        self._mailboxes: dict[int, tuple[Mailbox, int]] = {}
        self._next_id = 1
        self._connection: _Connection | None = None
        self._ready = asyncio.Event()
        self._server: asyncio.AbstractServer | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    @property
    def state(self) -> str:
        """``ok``; ``loading`` when no engine is connected; ``stalled`` when its loop has shown no sign of life."""
        if self._connection is None:
            return "loading"
        if time.monotonic() - self._connection.heard > self._stall_seconds:
            return "stalled"
        return "ok"

    async def start(self, sock: socket.socket) -> None:
        """Listen for engines on ``sock`` (a listening Unix socket)."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), sock=sock)
        self._ticker = loop.create_task(self._tick())

    async def stop(self) -> None:
        """Close the way; every request still in flight fails."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._connection is not None:
            self._connection.close()
        if self._server is not None:
            self._server.close()

    async def ready(self) -> ServedModel:
        """The model, once an engine is connected. Raises EngineUnavailable after the waiting time."""
        if not self._ready.is_set():
            try:
                await asyncio.wait_for(self._ready.wait(), self._wait_seconds)
            except TimeoutError:
                raise EngineUnavailable("The model is still loading or its engine is restarting; try again.") from None
        return cast(ServedModel, self.model)

    def submit(self, make: Callable[[int], Submit], mailbox: Mailbox, choice: int) -> int:
        """Send the submit that ``make`` makes for a new id; its messages go to ``mailbox`` as ``choice``'s.

        Raises EngineUnavailable when no engine is connected.
        """
        if self._connection is None:
            raise EngineUnavailable("The engine is restarting; try again.")
        identity = self._next_id
        self._next_id += 1
        self._mailboxes[identity] = (mailbox, choice)
        self._connection.send(make(identity))
        return identity

    def cancel(self, identity: int) -> None:
        """Stop a generation that hasn't ended; harmless for one that has."""
        if self._mailboxes.pop(identity, None) is not None and self._connection is not None:
            self._connection.send(Cancel(identity))

    # What _Connection calls

    def _connected(self, connection: _Connection, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"the engine speaks protocol {hello.protocol}, this process {PROTOCOL_VERSION}")
        if self._connection is not None:
            raise ProtocolError("a second engine has connected")
        try:
            self.model = ServedModel(hello)
        except ModelError as error:
            if self.on_unusable is not None:
                self.on_unusable(error)
            raise ProtocolError(str(error)) from error
        self.engine_pid = hello.pid
        self.engine_starts += 1
        self.beat = None
        self._connection = connection
        self._ready.set()
        if self.on_ready is not None:
            self.on_ready(self.model)

    def _disconnected(self, connection: _Connection) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        self._ready.clear()
        lost, self._mailboxes = self._mailboxes, {}
        if lost:
            self._log.error("the engine is gone", requests_lost=len(lost))
        for mailbox, _ in lost.values():
            mailbox.put(
                EngineDied("The engine died while it worked on this request; a new one is starting. Try again.")
            )

    def _step(self, step: Step) -> None:
        mailboxes = self._mailboxes
        logprobs = step.logprobs
        for started in step.started:
            if (entry := mailboxes.get(started.id)) is not None:
                entry[0].put(Begun(entry[1], started.cached_tokens))
        for index, identity in enumerate(step.ids):
            # A token may still come for an id that was cancelled a moment ago.
            if (entry := mailboxes.get(identity)) is not None:
                mailbox, choice = entry
                mailbox.put((choice, step.tokens[index], logprobs.get(index) if logprobs else None))
        for finished in step.finished:
            if (entry := mailboxes.pop(finished.id, None)) is not None:
                mailbox, choice = entry
                mailbox.put(End(choice, finished))

    def _answered(self, answer: Accepted | Refused) -> None:
        if (entry := self._mailboxes.get(answer.id)) is not None:
            entry[0].put(answer)
            if isinstance(answer, Refused):
                del self._mailboxes[answer.id]

    async def _tick(self) -> None:
        """Tell silent mailboxes so: one timer for all of them instead of one a token."""
        while True:
            await asyncio.sleep(self._tick_seconds)
            for mailbox in {mailbox for mailbox, _ in self._mailboxes.values()}:
                mailbox.tick()
                mailbox.silent_ticks += 1
                if mailbox.silent_ticks * self._tick_seconds >= self._silence_seconds:
                    mailbox.silent_ticks = 0
                    mailbox.put(Silence())


class _Connection(asyncio.Protocol):
    """One engine's connection."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._frames: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
        self._transport: asyncio.Transport | None = None
        self.heard = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self.heard = time.monotonic()
            for message in self._frames.feed(data):
                self._receive(message)
        except ProtocolError as error:
            structlog.get_logger().error("closing the engine's connection", error=str(error))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client._disconnected(self)

    def send(self, message: Submit | Cancel) -> None:
        assert self._transport is not None
        self._transport.write(frame(message))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _receive(self, message: FromEngine) -> None:
        if isinstance(message, Step):
            self._client._step(message)
        elif isinstance(message, Beat):
            self._client.beat = message
        elif isinstance(message, Hello):
            self._client._connected(self, message)
        else:
            self._client._answered(message)
