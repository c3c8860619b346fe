"""A request's cycle and what refers to it."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import Any

from tailrace.server.request_cycle import (
    CHUNKED_BODY,
    RAW_RESPONSE,
    REQUEST_BODY,
    ChunkedBody,
    RawResponse,
    RequestCycle,
)


class Connection:
    """A connection and its transport: it has the cycle, and the cycle has it."""

    def __init__(self) -> None:
        self.sent = b""
        self.scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/"}
        self.cycle: RequestCycle | None = RequestCycle(
            scope=self.scope,  # type: ignore[arg-type]
            transport=self,  # type: ignore[arg-type]
            flow=self,  # type: ignore[arg-type]
            logger=logging.getLogger(),
            access_logger=logging.getLogger(),
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=self.responded,
        )
        self.cycle.reader = self
        self.cycle.chunks = ChunkedBody(self.cycle, framed=True)
        self.cycle.raw = RawResponse(self.cycle)
        self.scope["extensions"] = {
            CHUNKED_BODY: {"body": self.cycle.chunks},
            REQUEST_BODY: {"fail": self.cycle.fail},
            RAW_RESPONSE: {"response": self.cycle.raw},
        }

    write_paused = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 3

    def responded(self) -> None: ...

    def resume(self) -> None: ...

    def linger(self) -> None: ...


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = scope["extensions"][CHUNKED_BODY]["body"]
    body.write(b"abc")
    assert body.waiting_bytes == 3
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def test_nothing_of_a_request_waits_for_the_garbage_collector() -> None:
    async def run() -> None:
        connection = Connection()
        assert connection.cycle is not None
        chunks, scope = connection.cycle.chunks, connection.scope
        await connection.cycle.run_asgi(_app)
        assert connection.sent.endswith(b"3\r\nabc\r\n0\r\n\r\n")
        found = weakref.ref(connection.cycle), weakref.ref(connection)
        connection.cycle = None
        del connection
        assert [reference() for reference in found] == [None, None]
        # A stream's timer may still look at the body.
        chunks.write(b"late")
        assert chunks.waiting_bytes == 0
        assert scope["extensions"] == {}

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()
