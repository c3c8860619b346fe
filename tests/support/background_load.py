"""Streams that go on for the time of a block, read by threads that use little CPU time."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

#: Seconds between two reads: a client that reads each token would take the engine's CPU time.
_PAUSE = 0.05


@contextlib.contextmanager
def streams(port: int, number: int, **fields: Any) -> Iterator[None]:
    """``number`` clients, each with one stream after the other. ``fields`` are added to the requests' bodies.

    AssertionError at the end when one was refused.
    """
    ended = threading.Event()
    refused: list[str] = []

    def run(client: int) -> None:
        prompt = f"Story {client}: once upon a time"
        body = json.dumps({"prompt": prompt, "max_tokens": 400, "stream": True, "ignore_eos": True, **fields}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        request = f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        while not ended.is_set():
            try:
                _read_all(port, request, ended, refused)
            except OSError:
                ended.wait(_PAUSE)  # The server of a test that breaks it.

    threads = [threading.Thread(target=run, args=(client,), daemon=True) for client in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(60.0)
    assert not refused, refused[0]


def _read_all(port: int, request: bytes, ended: threading.Event, refused: list[str]) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60.0) as connection:
        connection.sendall(request)
        first = connection.recv(1 << 20)
        if first and not first.startswith(b"HTTP/1.1 200 "):
            refused.append(first.decode("utf-8", "replace"))
            ended.wait(_PAUSE)
        while not ended.is_set() and connection.recv(1 << 20):
            time.sleep(_PAUSE)
