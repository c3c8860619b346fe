"""Clients of the soak: each does one random thing after the other in all dialects, and checks how it ends.

A stream must have exactly one terminal event. A refused request must have a 4xx or 503 status. A socket that is silent
for ``SILENCE_SECONDS`` is a hung request.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.loadtest.load_profile import COMMON_WORDS

#: A request that brings no byte for that long hangs.
SILENCE_SECONDS = 120.0
_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 4},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
_TOOL = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]},
}


class Fault(Exception):
    """A request ended as none may end; the text says how."""


class Tally(msgspec.Struct):
    """What became of the requests. ``faults``: texts of those that ended as none may, up to a hundred."""

    ended: Counter[str] = msgspec.field(default_factory=Counter)
    faults: list[str] = []
    hung: int = 0
    wrong_ends: int = 0


class SoakClient:
    """One client: a thread with a random source of its own. ``address``: where it connects from."""

    def __init__(self, port: int, model: str, number: int, address: str) -> None:
        self._port = port
        self._model = model
        self._address = address
        self._random = random.Random(number)
        self._ended = threading.Event()
        self.tally = Tally()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._actions: list[tuple[int, Callable[[], str]]] = [
            (8, self._chat_stream),
            (4, self._chat),
            (4, self._schema),
            (4, self._tools),
            (3, self._choices),
            (3, self._completion_stream),
            (4, self._responses_stream),
            (2, self._background),
            (4, self._messages_stream),
            (4, self._ollama_stream),
            (3, self._llama_server_stream),
            (3, self._embeddings),
            (1, self._echo),
            (2, self._tokenize),
            (5, self._leave),
            (1, self._read_slowly),
            (2, self._large_body),
            (3, self._wrong_request),
            (1, self._look),
        ]

    def start(self) -> None:
        """Begin with the first request."""
        self._thread.start()

    def warm_up(self) -> None:
        """Do each thing once, in this thread, so that everything is open that the server opens when first needed."""
        for _, action in self._actions:
            self._do(action)

    def stop(self) -> None:
        """End after the running request."""
        self._ended.set()

    def join(self, seconds: float) -> bool:
        """Whether the client has ended within ``seconds``."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        weights = [weight for weight, _ in self._actions]
        actions = [action for _, action in self._actions]
        while not self._ended.is_set():
            (action,) = self._random.choices(actions, weights)
            self._do(action)

    def _do(self, action: Callable[[], str]) -> None:
        name = action.__name__.strip("_")
        try:
            self.tally.ended[action()] += 1
        except TimeoutError:
            self.tally.hung += 1
            self._note(f"{name}: hung")
        except Fault as fault:
            self.tally.wrong_ends += 1
            self._note(f"{name}: {fault}")
        except (OSError, http.client.HTTPException) as error:
            self.tally.wrong_ends += 1
            self._note(f"{name}: {error!r}")

    def _note(self, text: str) -> None:
        if len(self.tally.faults) < 100:
            self.tally.faults.append(text)

    # Requests

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=SILENCE_SECONDS, source_address=(self._address, 0)
        )

    def _words(self, min_count: int = 3, max_count: int = 200) -> str:
        return " ".join(self._random.choices(COMMON_WORDS, k=self._random.randint(min_count, max_count)))

    def _body(self, **fields: Any) -> dict[str, Any]:
        chat = {"model": self._model, "messages": [{"role": "user", "content": self._words()}], "max_tokens": 40}
        return {**chat, **fields}

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of a whole reply. A 429 is waited out once."""
        with contextlib.closing(self._connect()) as connection:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
            self._check_refusal(response, data)
            return response.status, data

    def _check_refusal(self, response: http.client.HTTPResponse, data: bytes) -> None:
        if response.status >= 500 and response.status != 503:
            raise Fault(f"status {response.status}: {data[:200]!r}")
        if response.status in (429, 503):
            wait = response.getheader("Retry-After")
            if wait is None:
                raise Fault(f"status {response.status} without Retry-After")
            self._ended.wait(min(float(wait), 5.0))

    def _whole(self, path: str, body: dict[str, Any]) -> str:
        status, data = self._post(path, body)
        if status in (429, 503):
            return "refused"
        if status != 200:
            raise Fault(f"status {status}: {data[:200]!r}")
        return "ended"

    def _stream(self, path: str, body: dict[str, Any], is_terminal: Callable[[bytes], bool], pause: float = 0.0) -> str:
        """Read a stream to its end: it must have exactly one terminal line."""
        with contextlib.closing(self._connect()) as connection:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                data = response.read()
                self._check_refusal(response, data)
                if response.status in (429, 503):
                    return "refused"
                raise Fault(f"status {response.status}: {data[:200]!r}")
            terminal = 0
            last = b""
            for number, line in enumerate(response):
                terminal += is_terminal(line)
                last = line.strip() or last
                if pause and number < 50:
                    time.sleep(pause)
            if terminal != 1:
                raise Fault(f"{terminal} terminal events; the last line is {last[:200]!r}")
            return "ended"

    def _chat_stream(self) -> str:
        return self._stream("/v1/chat/completions", self._body(stream=True), _is_done)

    def _chat(self) -> str:
        return self._whole("/v1/chat/completions", self._body(temperature=self._random.random()))

    def _schema(self) -> str:
        schema = json.loads(json.dumps(_SCHEMA))
        schema["properties"]["age"]["maximum"] = self._random.randint(100, 100_000)
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
        return self._stream("/v1/chat/completions", self._body(stream=True, response_format=form), _is_done)

    def _tools(self) -> str:
        tool = {"type": "function", "function": {**_TOOL, "name": f"weather_{self._random.randint(1, 200)}"}}
        choice = self._random.choice(["auto", "required"])
        return self._stream("/v1/chat/completions", self._body(stream=True, tools=[tool], tool_choice=choice), _is_done)

    def _choices(self) -> str:
        return self._stream("/v1/chat/completions", self._body(stream=True, n=self._random.randint(2, 4)), _is_done)

    def _completion_stream(self) -> str:
        body = {"model": self._model, "prompt": self._words(), "max_tokens": 40, "stream": True, "logprobs": 2}
        return self._stream("/v1/completions", body, _is_done)

    def _responses_stream(self) -> str:
        body = {"model": self._model, "input": self._words(), "max_output_tokens": 40, "stream": True}
        return self._stream("/v1/responses", body, _is_response_end)

    def _background(self) -> str:
        body = {"model": self._model, "input": self._words(), "max_output_tokens": 30, "background": True}
        status, data = self._post("/v1/responses", body)
        if status in (400, 429, 503):
            return "refused"
        if status != 200:
            raise Fault(f"status {status}: {data[:200]!r}")
        identity = json.loads(data)["id"]
        deadline = time.monotonic() + 2 * SILENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.5)
            state = json.loads(self._get(f"/v1/responses/{identity}"))["status"]
            if state in ("completed", "incomplete"):
                return "ended"
            if state not in ("queued", "in_progress"):
                raise Fault(f"a background response has the status {state}")
        raise TimeoutError

    def _messages_stream(self) -> str:
        return self._stream("/v1/messages", self._body(stream=True), _is_message_end)

    def _ollama_stream(self) -> str:
        chat = self._body(stream=True)
        if self._random.random() < 0.5:
            body = {"model": self._model, "messages": chat["messages"], "options": {"num_predict": 40}}
            return self._stream("/api/chat", body, _is_ollama_end)
        body = {"model": self._model, "prompt": self._words(), "options": {"num_predict": 40}}
        return self._stream("/api/generate", body, _is_ollama_end)

    def _llama_server_stream(self) -> str:
        body = {"prompt": self._words(), "n_predict": 40, "stream": True}
        return self._stream("/completion", body, _is_llama_end)

    def _embeddings(self) -> str:
        inputs = [self._words(1, 60) for _ in range(self._random.randint(1, 16))]
        return self._whole("/v1/embeddings", {"model": self._model, "input": inputs})

    def _echo(self) -> str:
        body = {"model": self._model, "prompt": self._words(), "max_tokens": 1, "echo": True, "logprobs": 1}
        return self._whole("/v1/completions", body)

    def _tokenize(self) -> str:
        return self._whole("/tokenize", {"content": self._words(1, 3000)})

    def _leave(self) -> str:
        """Hang up in the middle of a stream, or before it."""
        with contextlib.closing(self._connect()) as connection:
            body = self._body(stream=True, max_tokens=2000, ignore_eos=True)
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            if self._random.random() < 0.3:
                return "left"
            response = connection.getresponse()
            if response.status != 200:
                self._check_refusal(response, response.read())
                return "refused"
            for _ in range(self._random.randint(1, 60)):
                if not response.readline():
                    raise Fault("a stream of 2,000 tokens ended early")
        return "left"

    def _read_slowly(self) -> str:
        return self._stream("/v1/chat/completions", self._body(stream=True, max_tokens=100), _is_done, pause=0.2)

    def _large_body(self) -> str:
        """40 MB, beyond the limit of 32: the server reads them to be able to answer, and keeps nothing."""
        with contextlib.closing(socket.create_connection(("127.0.0.1", self._port), SILENCE_SECONDS)) as sock:
            with contextlib.suppress(ConnectionError):  # The server may close the connection once it has answered.
                sock.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 40000000\r\n\r\n"
                )
                for _ in range(40):
                    sock.sendall(b" " * 1_000_000)
            status = sock.recv(100)
            if not status.startswith(b"HTTP/1.1 413"):
                raise Fault(f"40 MB were answered by {status!r}")
        return "refused"

    def _wrong_request(self) -> str:
        fields: dict[str, Any] = self._random.choice(
            [
                {"temperature": "hot"},
                {"messages": []},
                {"n": 0},
                {"messages": [{"role": "user", "content": "word " * 9000}]},
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}}},
                {"tools": [{"type": "function"}]},
            ]
        )
        status, data = self._post("/v1/chat/completions", self._body(**fields))
        if not 400 <= status < 504:
            raise Fault(f"a wrong request has the status {status}: {data[:100]!r}")
        return "refused"

    def _look(self) -> str:
        for path in ("/health", "/metrics", "/v1/models", "/props"):
            self._get(path)
        return "ended"

    def _get(self, path: str) -> bytes:
        with contextlib.closing(self._connect()) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            data = response.read()
            if response.status != 200:
                raise Fault(f"GET {path}: status {response.status}: {data[:200]!r}")
            return data


def _is_done(line: bytes) -> bool:
    return line.startswith((b"data: [DONE]", b'data: {"error"', b"error:"))


def _is_response_end(line: bytes) -> bool:
    return line.startswith(
        (b"event: response.completed", b"event: response.incomplete", b"event: response.failed", b"event: error")
    )


def _is_message_end(line: bytes) -> bool:
    return line.startswith((b"event: message_stop", b"event: error"))


def _is_ollama_end(line: bytes) -> bool:
    return line.startswith(b"{") and (b'"done":true' in line or line.startswith(b'{"error"'))


def _is_llama_end(line: bytes) -> bool:
    return line.startswith((b"data: ", b"error: ")) and (b'"stop":true' in line or b'"error"' in line)
