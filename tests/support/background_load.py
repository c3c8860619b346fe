"""Streams that go on for the time of a block, read by threads that use little CPU time."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

#: Seconds between two reads: a client that reads each token would take the engine's CPU time.
_PAUSE = 0.05


@contextlib.contextmanager
def streams(port: int, number: int, **fields: Any) -> Iterator[None]:
    """``number`` clients, each with one stream after the other. ``fields`` are added to the requests' bodies."""
    ended = threading.Event()

    def run(client: int) -> None:
        prompt = f"Story {client}: once upon a time"
        body = {"prompt": prompt, "max_tokens": 400, "stream": True, "ignore_eos": True, **fields}
        while not ended.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
            try:
                connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
                response = connection.getresponse()
                while not ended.is_set() and response.read1(1 << 20):
                    time.sleep(_PAUSE)
            except OSError:
                ended.wait(_PAUSE)  # The server of a test that breaks it.
            finally:
                connection.close()

    threads = [threading.Thread(target=run, args=(client,), daemon=True) for client in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(60.0)
