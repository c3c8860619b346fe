"""A replica's state channel: one connection over which its HTTP process reports phase, load and prefixes.

It reconnects by itself. A channel that breaks or is silent for long means that the replica is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from tailrace.cluster.state_parser import ChannelError, StateParser, request_head
from tailrace.cluster_protocol.state import HEARTBEAT_SECONDS, SILENCE_SECONDS, StateMessage

#: Seconds between two attempts to connect.
_RETRY_SECONDS = 0.25
#: Parts of a silence in each of which nothing must have come.
_SLICES = 6
#: Those of them after which nothing new is sent to the replica: two of its heartbeats haven't come.
_OVERDUE_SLICES = round(2 * HEARTBEAT_SECONDS / SILENCE_SECONDS * _SLICES)
#: The reason of a channel's proper end.
_DRAINED = "the replica has drained"


class StateChannel:
    """The channel of one replica. ``on_message`` gets each message, ``on_lost`` the reason when the channel ends, and
    whether the replica has ended it itself, because it has drained. ``on_overdue`` is called in each silence that is
    longer than a replica's heartbeats allow. ``silence_seconds``: after so many without a message the replica is lost.
    """

    def __init__(
        self,
        host: str,
        port: int,
        secret: str,
        on_message: Callable[[StateMessage], None],
        on_lost: Callable[[str, bool], None],
        on_overdue: Callable[[], None] = lambda: None,
        *,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._address = (host, port)
        self._head = request_head(host, port, secret)
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_overdue = on_overdue
        self._silence_seconds = silence_seconds
        self._log = structlog.get_logger()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Follow the replica no more; nothing is called from now on."""
        self._task.cancel()

    async def _run(self) -> None:
        reported = ""
        while True:
            reason = await self._follow()
            if reason != reported:  # Not a line for each attempt.
                reported = reason
                self._log.info("a replica's state channel ended", address="{}:{}".format(*self._address), reason=reason)
            self._on_lost(reason, reason == _DRAINED)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self) -> str:
        """Connect, and read messages until the channel ends. The reason of its end."""
        try:
            async with asyncio.timeout(self._silence_seconds):
                reader, writer = await asyncio.open_connection(*self._address)
        except TimeoutError:
            return "no connection in time"
        except OSError as error:
            return f"no connection: {error.strerror or error}"
        try:
            writer.write(self._head)
            return await self._read(reader)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> str:
        parser = StateParser()
        try:
            while data := await self._read_unless_silent(reader):
                for message in parser.feed(data):
                    self._on_message(message)
                if parser.has_ended:
                    return _DRAINED
            return "the connection ended"
        except TimeoutError:
            return f"silent for {self._silence_seconds} s"
        except OSError as error:
            return f"the connection broke: {error.strerror or error}"
        except ChannelError as error:
            return str(error)
        except ValueError as error:
            return f"a message can't be applied: {error}"

    async def _read_unless_silent(self, reader: asyncio.StreamReader) -> bytes:
        """Some bytes; empty at the end. Raises TimeoutError after a silence.

        The silence is counted in slices, with a look at the connection between them. So bytes that have come while this
        process had no CPU time count.
        """
        for number in range(1, _SLICES):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._silence_seconds / _SLICES):
                    return await reader.read(65_536)
            if number == _OVERDUE_SLICES:
                self._on_overdue()
        async with asyncio.timeout(self._silence_seconds / _SLICES):
            return await reader.read(65_536)
