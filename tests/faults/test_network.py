"""Clients that reset, read slowly, write slowly, and send garbage, beside clients that do none of it."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import time

from canary import canary, percentile
from fault_figures import Record
from observed_requests import DIALECTS, Outcome, idle, problems, send, send_all
from openai_wire import Connection, chat
from server_memory import memory_bytes, open_files, settled
from servers import ServerProcess, serving, wait_for

MEMORY = 1.05
#: Others' gaps beside an attack ÷ their usual gaps.
GAPS = 2.0
#: A KV cache that has its size from the start, and no prefix states in host memory: what grows then isn't a cache.
MODEL = ("--ctx", "2048", "--parallel", "8", "--kv-tokens", "4096", "--keep-mb", "0")


def warm(server: ServerProcess) -> tuple[int, int]:
    """Memory and open files of a server that has done all kinds of work."""
    for _ in range(2):
        assert not problems(asyncio.run(send_all(server.port, 16, max_tokens=64)))
    return memory_bytes(server), open_files(server.http)


def check_after(server: ServerProcess, before: tuple[int, int], record: Record) -> None:
    """Nothing of the attack is left: no request, no file, no memory."""
    wait_for("the engine to be idle", lambda: idle(server.port))
    outcomes = asyncio.run(send_all(server.port, 12, max_tokens=8))
    assert not problems(outcomes)
    assert all(outcome.accepted and not outcome.failed for outcome in outcomes)
    memory, files = before
    assert settled(lambda: open_files(server.http), files) <= files
    record("memory", settled(lambda: memory_bytes(server), memory * MEMORY) / memory, MEMORY, "x")


def test_connections_are_reset(record: Record) -> None:
    """Clients reset at a random moment: before, in and after the request's head, body and reply."""
    chance = random.Random(7)
    with serving(*MODEL) as server:
        before = warm(server)
        request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        body = b'{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 500, "stream": true}'
        request += b"content-length: %d\r\n\r\n%b" % (len(body), body)
        for _ in range(300):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(request[: chance.randrange(len(request) + 40)])
            time.sleep(chance.random() * 0.02)
            sock.close()
        check_after(server, before, record)


def test_readers_that_never_read(record: Record) -> None:
    """128 clients ask for long replies with probabilities and read nothing."""
    with serving(*MODEL) as server:
        before = warm(server)

        async def attack() -> tuple[list[float], list[float]]:
            async with canary(server.port) as bird:
                usual = await bird.gaps_during(10.0)
                silent = []
                for number in range(128):
                    connection = Connection(server.port, receive_buffer=4096)
                    stream = number % 4 > 0
                    body = chat("Go on.", max_tokens=1500, stream=stream, logprobs=True, top_logprobs=20)
                    connection.request("POST", "/v1/chat/completions", {**body, "ignore_eos": True})
                    silent.append(connection)
                crowd = [
                    asyncio.create_task(send(server.port, "chat", max_tokens=2000)) for _ in range(7)
                ]  # What eight streams at once are like without slow readers.
                beside = await bird.gaps_during(40.0)
                for task in crowd:
                    task.cancel()
                for connection in silent:
                    connection.close()
                return usual, beside

        usual, beside = asyncio.run(attack())
        assert usual
        assert beside
        check_after(server, before, record)


def test_slow_writers(record: Record) -> None:
    """Heads and bodies that come a byte at a time, or stop."""
    with serving(*MODEL) as server:
        before = warm(server)

        async def attack() -> tuple[list[float], list[float]]:
            async with canary(server.port) as bird:
                usual = await bird.gaps_during(10.0)
                sockets = []
                for number in range(600):
                    sock = socket.create_connection(("127.0.0.1", server.port))
                    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n"
                    sock.sendall(head[: 10 + number % 40] if number % 2 else head + b"\r\n{")
                    sockets.append(sock)
                beside = await bird.gaps_during(10.0)
                for sock in sockets:
                    sock.close()
                return usual, beside

        usual, beside = asyncio.run(attack())
        record("gaps, 99th percentile", percentile(beside, 0.99) / percentile(usual, 0.99), GAPS, "x")
        check_after(server, before, record)


def test_garbage(record: Record) -> None:
    """Bytes that are no HTTP, broken chunks, broken bodies, binary data on every route."""
    chance = random.Random(11)
    routes = ["/", "/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/api/chat", "/completion", "/tokenize"]
    with serving(*MODEL) as server:
        before = warm(server)
        for number in range(500):
            noise = chance.randbytes(chance.randrange(1, 3000))
            route = chance.choice(routes).encode()
            pieces = [
                noise,
                b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n%b" % (route, len(noise), noise),
                b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n%b" % (route, noise),
                b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (noise[:8], route, noise),
            ]
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.settimeout(30.0)
            sock.sendall(pieces[number % 4])
            sock.shutdown(socket.SHUT_WR)
            reply = b""
            try:
                while piece := sock.recv(65_536):
                    reply += piece
            except ConnectionResetError:
                pass  # The server has refused bytes that this side went on writing.
            sock.close()
            assert not reply or reply.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")), reply[:300]
        check_after(server, before, record)


def test_a_terminated_server_ends_every_request() -> None:
    """SIGTERM during streams and whole replies of every dialect, some running and some queued."""
    with serving("--parallel", "4", "--ctx", "2048", "--drain-seconds", "2") as server:

        async def attack() -> list[Outcome]:
            tasks = [
                asyncio.create_task(send(server.port, dialect, max_tokens=1900, stream=stream))
                for dialect in DIALECTS
                for stream in (True, False)
            ]
            await asyncio.sleep(2.0)
            os.kill(server.pid, 15)
            await asyncio.sleep(0.5)
            late = [asyncio.create_task(send(server.port, dialect, max_tokens=4)) for dialect in DIALECTS]
            return await asyncio.gather(*tasks, *late)

        outcomes = asyncio.run(attack())
        assert not problems(outcomes)
        assert {outcome.status for outcome in outcomes[-len(DIALECTS) :]} == {503}
        assert server.process.wait(30.0) == 0
