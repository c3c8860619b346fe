"""The bytes of a replica's state channel, as a thread and an event loop read them."""

from __future__ import annotations

import pytest

from tailrace.cluster.state_parser import ChannelError, StateParser
from tailrace.cluster_protocol.state import STATE_VERSION, ReplicaState, StateHeartbeat, StateMessage
from tailrace.server import ndjson

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(line: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(line), line)


def test_messages_come_whole_however_the_bytes_are_cut() -> None:
    messages: list[StateMessage] = [ReplicaState(version=STATE_VERSION, phase="ready"), StateHeartbeat()]
    stream = HEAD + b"".join(chunk(ndjson.line(each)) for each in messages)
    for size in (1, 7, 10_000):
        parser = StateParser()
        found = [each for begin in range(0, len(stream), size) for each in parser.feed(stream[begin : begin + size])]
        assert found == messages
        assert not parser.has_ended
        parser.feed(b"0\r\n\r\n")
        assert parser.has_ended


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "status 403.*cluster_secret"),
        (b"SSH-2.0-OpenSSH\r\n", "can't be read"),
        (HEAD + chunk(ndjson.line(ReplicaState(version=STATE_VERSION + 1, phase="ready"))), "version 2"),
        (HEAD + chunk(b"[" * 100_000 + b"\n"), "can't be read"),
        (HEAD + chunk(b'{"type": "heartbeat", "x": ' + b"[" * 100_000 + b"\n"), "can't be read"),
        (HEAD + chunk(b'{"type": "unknown"}\n'), "can't be read"),
        (HEAD + chunk(b"x" * 4_000_001), "can't be read"),
    ],
    ids=lambda value: str(value)[-20:],
)
def test_what_is_no_state_is_refused(stream: bytes, reason: str) -> None:
    with pytest.raises(ChannelError, match=reason):
        StateParser().feed(stream)
