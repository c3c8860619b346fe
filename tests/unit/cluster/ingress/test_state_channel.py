"""A replica that falls silent: first nothing new goes there, then it counts as lost."""

from __future__ import annotations

import asyncio

from tailrace.cluster.ingress.state_channel import StateChannel
from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster_protocol.state import STATE_VERSION, ReplicaState, StateHeartbeat, StateMessage
from tailrace.server import ndjson

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(message: StateMessage) -> bytes:
    line = ndjson.line(message)
    return b"%x\r\n%b\r\n" % (len(line), line)


def test_a_replica_whose_heartbeat_is_overdue_takes_nothing_until_it_speaks_again() -> None:
    events: asyncio.Queue[str] = asyncio.Queue()
    speak = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + chunk(ReplicaState(version=STATE_VERSION, phase="ready")))
        await speak.wait()
        writer.write(chunk(StateHeartbeat()))
        await reader.read()
        writer.close()

    async def run() -> None:
        view = ReplicaView("r", "127.0.0.1", 0)

        def on_message(message: StateMessage) -> None:
            view.apply(message)
            events.put_nowait("message")

        def on_overdue() -> None:
            view.behind = True
            events.put_nowait("overdue")

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        channel = StateChannel(
            "127.0.0.1", port, "secret", on_message, lambda reason, drained: events.put_nowait("lost"), on_overdue
        )
        seen: list[tuple[str, bool]] = []
        while not seen or seen[-1][0] != "lost":
            seen.append((await asyncio.wait_for(events.get(), 60), view.takes_requests))
            if seen[-1][0] == "overdue":
                speak.set()
        channel.close()
        server.close()
        assert seen[:2] == [("message", True), ("overdue", False)]
        # A machine without time for this process may bring it the heartbeat late: then the replica is lost at once.
        assert seen[2:] in ([("message", True), ("overdue", False), ("lost", False)], [("lost", False)])

    asyncio.run(run())
