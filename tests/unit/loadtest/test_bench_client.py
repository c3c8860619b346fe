"""The benchmark's client against a server that says what a test wants: what it notices, and what it waits for."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from tailrace.loadtest.bench_client import BenchClient, BenchError
from tailrace.loadtest.load_profile import BenchRequest, LoadProfile

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def event(value: object) -> bytes:
    data = b"data: " + json.dumps(value).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def text(content: str | None) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": content}}]})


def usage(tokens: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}})


def reply(*texts: str) -> bytes:
    return HEAD + text("") + b"".join(map(text, texts)) + usage(len(texts)) + DONE


@contextlib.contextmanager
def answering(
    *answers: bytes | Sequence[bytes], hold: int = 0, reset: bool = False, pause: float = 0.0
) -> Iterator[BenchClient]:
    """A server that gives its connections one answer after the other, and keeps the first ``hold`` of them open until
    the client has gone. ``reset``: connections are broken off. ``pause``: seconds after each part of an answer.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(30.0)
    gone = threading.Event()

    def serve() -> None:
        held: list[socket.socket] = []
        for answer in answers:
            connection, _ = listening.accept()
            request = b""
            while b"\r\n\r\n" not in request or not request.endswith(b"}"):
                request += connection.recv(65536)
            for part in [answer] if isinstance(answer, bytes) else answer:
                connection.sendall(part)
                time.sleep(pause)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if len(held) < hold:
                held.append(connection)
            else:
                connection.close()
        gone.wait()
        for connection in held:
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield BenchClient(f"http://127.0.0.1:{listening.getsockname()[1]}", model="m")
    finally:
        gone.set()
        thread.join()
        listening.close()


def ask(tokens: int, *, after: tuple[int, int] | None = None, exact: bool = True) -> BenchRequest:
    return BenchRequest(
        messages=[{"role": "user", "content": "x"}], max_tokens=tokens, start_after=after, exact_length=exact
    )


def test_every_stream_s_texts_come_in_order_with_the_server_s_count() -> None:
    with answering(reply("a", "b"), reply("c", "d")) as client:
        timings = client.run(LoadProfile(streams=2, prompt_tokens=9, output_tokens=2), 0)
    assert [timing.text for timing in timings] == ["ab", "cd"]
    for timing in timings:
        assert (timing.prompt_tokens, timing.reply_tokens, len(timing.token_times)) == (7, 2, 2)
        assert timing.sent_at < timing.token_times[0] <= timing.token_times[1] <= timing.ended_at


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\ncome back",
            "the server answered: HTTP/1.1 503 Busy come back",
        ),
        (b"", "the server answered: nothing"),
        (HEAD + text("a") + event({"error": {"message": "lost"}}) + DONE, "the server failed: .*lost"),
        (HEAD + text("a") + text("b") + usage(2) + b"0\r\n\r\n", "broke a reply off"),
        (HEAD + text("a") + text("b") + usage(2), "broke a reply off"),
        (HEAD + text("a") + usage(1) + DONE, "1 tokens instead of 2"),
        (HEAD + event([1]) + DONE, "no chunk of a chat"),
        (HEAD + b"data: x\n\n\r\n", "chunks can't be read"),
    ],
)
def test_a_wrong_reply_is_an_error_and_no_figure(answer: bytes, said: str) -> None:
    with answering(answer) as client, pytest.raises(BenchError, match=said):
        client.exchange([ask(2)])


def test_a_broken_connection_is_an_error() -> None:
    with answering(HEAD + text("a"), reset=True) as client, pytest.raises(BenchError, match="broke the connection off"):
        client.exchange([ask(2)])


def test_a_header_that_ends_in_0_is_not_the_last_chunk() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nAge: 10\r\n\r\n"
    with answering([head, *(reply("a", "b").partition(HEAD)[2:])]) as client:
        (timing,) = client.exchange([ask(2)])
    assert timing.text == "ab"


def test_a_reply_is_left_after_the_tokens_wanted() -> None:
    # The server doesn't end it: the client has to.
    with answering(HEAD + text("") + text("a") + text("b") + text("c"), hold=1) as client:
        (timing,) = client.run(LoadProfile(streams=1, prompt_tokens=9, output_tokens=2, max_tokens=99), 0)
    assert len(timing.token_times) == 2
    assert timing.ended_at == 0.0


def test_a_reply_is_not_left_in_the_middle_of_the_last_token_wanted() -> None:
    begun, colon, rest = text("b").partition(b"data:")
    with answering([HEAD + text("") + text("a") + begun + colon, rest, text("c")], hold=1, pause=0.2) as client:
        (timing,) = client.run(LoadProfile(streams=1, prompt_tokens=9, output_tokens=2, max_tokens=99), 0)
    assert timing.text.startswith("ab")
    assert len(timing.token_times) == 2


def test_a_request_follows_another_one_s_tokens_and_its_end_ends_all() -> None:
    # The first is still open when the second is asked for and has ended.
    with answering(HEAD + text("") + text("a"), reply("b", "c"), hold=1) as client:
        first, second = client.exchange([ask(2), ask(2, after=(0, 2))], until=1)
    assert (first.text, first.ended_at, second.text) == ("a", 0.0, "bc")
    assert second.sent_at >= first.token_times[0]


def test_a_request_that_never_starts_is_an_error() -> None:
    with answering(reply("a", "b")) as client, pytest.raises(BenchError, match="too short"):
        client.exchange([ask(2), ask(2, after=(0, 99))])
