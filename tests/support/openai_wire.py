"""A raw HTTP client that hides nothing: exact bytes, chunk by chunk, as they came."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Long enough for slow machines; a server that hangs fails.
TIMEOUT = 30.0

Headers = Mapping[str, str]


@dataclass
class Reply:
    """A response as it was on the wire. ``chunks`` are a chunked body's pieces; ``body`` is the whole."""

    status: int
    head: bytes
    headers: list[tuple[str, str]]
    chunks: list[bytes] = field(default_factory=list)
    body: bytes = b""
    #: The bytes behind the body, as far as they were read with it.
    rest: bytes = b""

    def header(self, name: str) -> str | None:
        """The one header of that (lower case) name. Names are compared as written on the wire."""
        found = [value for known, value in self.headers if known == name]
        assert len(found) < 2, f"{name} occurs {len(found)} times"
        return found[0] if found else None

    def json(self) -> Any:
        """The body, which says that it is JSON."""
        assert self.header("content-type") == "application/json", self.head
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The body's error, after a look at its shape: OpenAI's, exactly."""
        body = self.json()
        assert list(body) == ["error"]
        error: dict[str, Any] = body["error"]
        # A prompt that doesn't fit has llama-server's numbers as well.
        numbers = {"n_prompt_tokens", "n_ctx"} if error.get("code") == "context_length_exceeded" else set()
        assert set(error) == {"message", "type", "param", "code"} | numbers
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        assert error["type"]
        assert error["param"] is None or (isinstance(error["param"], str) and error["param"])
        assert error["code"] is None or (isinstance(error["code"], str) and error["code"])
        return error


class Connection:
    """One TCP connection."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self._socket: socket.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(("127.0.0.1", port))
        self._buffer = b""

    def secure(self, context: ssl.SSLContext) -> None:
        """Go on with TLS."""
        self._socket = context.wrap_socket(self._socket, server_hostname="localhost")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away."""
        self._socket.close()

    def reset(self) -> None:
        """Go away rudely, with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self._socket.sendall(data)

    def request(
        self, method: str, path: str, body: bytes | object = None, headers: Headers | None = None, *, chunked: int = 0
    ) -> None:
        """Write a request; a body that isn't bytes goes as JSON. ``chunked`` sends it in chunks of that size."""
        lines = {"host": "127.0.0.1", **(headers or {})}
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            lines.setdefault("content-type", "application/json")
            if chunked:
                lines["transfer-encoding"] = "chunked"
            else:
                lines.setdefault("content-length", str(len(data)))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(head.encode() + b"\r\n")
        if chunked:
            for start in range(0, len(data), chunked):
                piece = data[start : start + chunked]
                self.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.send(b"0\r\n\r\n")
        elif data:
            self.send(data)

    def read_head(self) -> Reply:
        """The status line and the headers."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        status, *lines = head.decode("latin-1").split("\r\n")
        assert status.startswith("HTTP/1.1 ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Reply(int(status.split(" ")[1]), head, headers)

    def read(self, *, head_only: bool = False) -> Reply:
        """A whole response."""
        reply = self.read_head()
        if head_only or reply.status == 204:
            pass
        elif reply.header("transfer-encoding") == "chunked":
            reply.chunks = list(self.chunks())
            reply.body = b"".join(reply.chunks)
        else:
            length = reply.header("content-length")
            assert length is not None, reply.head
            while len(self._buffer) < int(length):
                self._more()
            reply.body, self._buffer = self._buffer[: int(length)], self._buffer[int(length) :]
        reply.rest = self._buffer
        return reply

    def chunks(self) -> Iterator[bytes]:
        """A chunked body's chunks as they come, without the one that terminates it."""
        while chunk := self.chunk():
            yield chunk

    def chunk(self) -> bytes:
        """The next chunk; empty for the one that terminates the body."""
        while b"\r\n" not in self._buffer:
            self._more()
        size, self._buffer = self._buffer.split(b"\r\n", 1)
        length = int(size, 16)
        while len(self._buffer) < length + 2:
            self._more()
        chunk, end, self._buffer = self._buffer[:length], self._buffer[length : length + 2], self._buffer[length + 2 :]
        assert end == b"\r\n"
        return chunk

    def read_to_end(self) -> bytes:
        """Everything until the server closes."""
        while data := self._socket.recv(65536):
            self._buffer += data
        return self._buffer

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed after {self._buffer[-200:]!r}")
        self._buffer += data


def ask(
    port: int, method: str, path: str, body: bytes | object = None, headers: Headers | None = None, *, chunked: int = 0
) -> Reply:
    """One request on a connection of its own."""
    with Connection(port) as connection:
        connection.request(method, path, body, headers, chunked=chunked)
        return connection.read(head_only=method == "HEAD")


def chat(text: str, **fields: object) -> dict[str, object]:
    """A chat request of one user message."""
    return {"messages": [{"role": "user", "content": text}], **fields}


def say(reply: bytes | str) -> str:
    """A message that makes the scripted backend reply with these bytes."""
    raw = reply.encode() if isinstance(reply, str) else reply
    return "<say>" + "".join(f"\\x{byte:02x}" for byte in raw) + "</say>"


# The rules of every stream


@dataclass
class Stream:
    """A stream whose every byte was looked at. Choices are in the order of their index."""

    chunks: list[dict[str, Any]]  #: with choices that have something of the reply
    usage: dict[str, Any] | None
    text: list[str]
    reasoning: list[str]
    calls: list[list[dict[str, str]]]
    finish: list[str]


def payloads(chunks: Iterable[bytes]) -> list[bytes]:
    """The data of events of which each came as exactly one chunk."""
    found = []
    for chunk in chunks:
        assert chunk.startswith(b"data: "), chunk
        assert chunk.endswith(b"\n\n"), chunk
        data = chunk[6:-2]
        assert b"\n" not in data
        assert b"\r" not in data
        assert len(data) < 60_000 - 6
        found.append(data)
    return found


def _common(reply: Reply) -> list[dict[str, Any]]:
    """Rules of both kinds of stream: headers, events, ids; the chunks without the end."""
    assert reply.status == 200
    assert reply.header("content-type") == "text/event-stream"
    assert reply.header("cache-control") == "no-cache"
    assert reply.header("x-accel-buffering") == "no"
    assert reply.header("transfer-encoding") == "chunked"
    assert reply.header("content-length") is None
    assert reply.header("content-encoding") is None
    assert all(name == name.lower() for name, _ in reply.headers)
    assert reply.rest == b"", "something stands behind the terminating chunk"
    *events, done = payloads(reply.chunks)
    assert done == b"[DONE]"
    assert b"[DONE]" not in events
    chunks: list[dict[str, Any]] = [json.loads(event.decode("utf-8")) for event in events]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert len({chunk["model"] for chunk in chunks}) == 1
    assert len({chunk.get("system_fingerprint") for chunk in chunks}) == 1
    assert len({chunk["created"] for chunk in chunks}) == 1
    assert isinstance(chunks[0]["created"], int)
    for chunk in chunks:
        assert isinstance(chunk["id"], str)
        _no_null(chunk)
    return chunks


def _no_null(chunk: dict[str, Any]) -> None:
    """Only ``finish_reason`` may be null."""
    stack: list[Any] = [chunk]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            assert all(inner is not None for key, inner in value.items() if key != "finish_reason"), chunk
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def _usage(chunks: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Takes the usage chunk away, if the last one is one; no other may be."""
    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks[:-1])
    if chunks[-1]["choices"]:
        assert "usage" not in chunks[-1]
        return None
    usage: dict[str, Any] = chunks.pop()["usage"]
    check_usage(usage)
    return usage


def check_usage(usage: dict[str, Any]) -> None:
    """Integers, and a total that is one."""
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert type(usage[name]) is int
        assert usage[name] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def chat_stream(reply: Reply, choices: int = 1) -> Stream:
    """A chat stream that ended well, after every rule for its bytes was checked."""
    chunks = _common(reply)
    usage = _usage(chunks)
    stream = Stream(chunks, usage, [""] * choices, [""] * choices, [[] for _ in range(choices)], [""] * choices)
    begun: set[int] = set()
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        (choice,) = chunk["choices"]
        index, delta, finish = choice["index"], choice["delta"], choice["finish_reason"]
        assert not stream.finish[index], "a chunk after the choice's final one"
        if index not in begun:
            begun.add(index)
            assert delta == {"role": "assistant", "content": ""}
            assert finish is None
            continue
        if finish is not None:
            assert delta == {}
            stream.finish[index] = finish
            continue
        assert len(delta) == 1, f"one kind of thing in a chunk: {delta}"
        if "content" in delta:
            assert isinstance(delta["content"], str)
            stream.text[index] += delta["content"]
        elif "reasoning_content" in delta:
            assert delta["reasoning_content"]
            stream.reasoning[index] += delta["reasoning_content"]
        else:
            (call,) = delta["tool_calls"]
            _call(stream.calls[index], call)
    assert begun == set(range(choices))
    for index, finish in enumerate(stream.finish):
        assert finish in {"stop", "length", "tool_calls", "content_filter"}
        assert (finish == "tool_calls") == bool(stream.calls[index])
        for gathered in stream.calls[index]:
            assert isinstance(json.loads(gathered["arguments"]), dict)
    return stream


def _call(calls: list[dict[str, str]], fragment: dict[str, Any]) -> None:
    """The first fragment has everything but arguments, the others have nothing else."""
    if fragment["index"] == len(calls):
        assert set(fragment) == {"index", "id", "type", "function"}
        assert fragment["type"] == "function"
        assert fragment["function"]["arguments"] == ""
        assert fragment["id"]
        assert fragment["id"] not in {call["id"] for call in calls}
        calls.append({"id": fragment["id"], "name": fragment["function"]["name"], "arguments": ""})
    else:
        assert fragment["index"] == len(calls) - 1
        assert set(fragment) == {"index", "function"}
        assert set(fragment["function"]) == {"arguments"}
        calls[-1]["arguments"] += fragment["function"]["arguments"]


def text_stream(reply: Reply, choices: int = 1) -> Stream:
    """A text completion's stream that ended well, after every rule for its bytes was checked."""
    chunks = _common(reply)
    usage = _usage(chunks)
    stream = Stream(chunks, usage, [""] * choices, [""] * choices, [[] for _ in range(choices)], [""] * choices)
    for chunk in chunks:
        assert chunk["object"] == "text_completion"
        (choice,) = chunk["choices"]
        index = choice["index"]
        assert isinstance(choice["text"], str)
        assert not stream.finish[index], "a chunk after the choice's final one"
        if choice["finish_reason"] is not None:
            assert choice["text"] == ""
            stream.finish[index] = choice["finish_reason"]
        stream.text[index] += choice["text"]
    assert all(finish in {"stop", "length"} for finish in stream.finish)
    return stream


def failed_stream(chunks: list[bytes]) -> tuple[str, dict[str, Any]]:
    """A failed stream: its text, which ends with the error that the user sees, and the error object at its end."""
    *events, last = [json.loads(data) for data in payloads(chunks)]
    assert set(last) == {"error"}, last
    assert set(last["error"]) == {"message", "type", "param", "code"}
    text = ""
    for event in events:
        assert "error" not in event
        (choice,) = event["choices"]
        assert choice["finish_reason"] is None
        text += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
    assert text.endswith(f"[error: {last['error']['message']}]")
    assert text.count("[error: ") == 1
    return text, last["error"]


def metric(port: int, name: str) -> float:
    """A metric's value, all its labels together."""
    lines = ask(port, "GET", "/metrics").body.decode().splitlines()
    values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} "))]
    assert values, f"no metric {name}"
    return sum(values)
