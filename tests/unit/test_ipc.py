"""Frames between the processes: whole messages, however the bytes come."""

from __future__ import annotations

import resource
import socket
import struct
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import ProtocolError
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.ipc import (
    MAX_FRAME,
    Channel,
    FrameDecoder,
    connection_hub,
    frame,
    offer_connection,
    take_connection,
)
from tailrace.prompt_text import PromptText
from tailrace.protocol import (
    Accepted,
    Cancel,
    EngineCounters,
    Finished,
    FromEngine,
    Heartbeat,
    Refused,
    Started,
    Step,
    Submit,
    ToEngine,
    TokenLogprobs,
)

NUMBER = st.integers(0, 2**40)
SUBMITS = st.builds(
    Submit,
    id=NUMBER,
    prompt=st.builds(PromptText, st.text(max_size=50), st.lists(st.tuples(NUMBER, NUMBER), max_size=3).map(tuple))
    | st.lists(NUMBER, max_size=5),
    params=st.builds(
        GenerationParams,
        max_tokens=st.none() | NUMBER,
        sampling=st.builds(
            Sampling,
            temperature=st.floats(0, 2),
            seed=st.none() | st.integers(0, 2**64 - 1),
            logit_bias=st.dictionaries(NUMBER, st.floats(-100, 100), max_size=3),
        ),
        stop_tokens=st.lists(NUMBER, max_size=3).map(tuple),
        ignore_eos=st.booleans(),
        logprobs=st.none() | st.integers(0, 20),
    ),
)
TO_ENGINE = st.lists(SUBMITS | st.builds(Cancel, NUMBER), max_size=6)
LOGPROBS = st.builds(
    TokenLogprobs, logprob=st.floats(-50, 0), top=st.lists(st.tuples(NUMBER, st.floats(-50, 0)), max_size=3)
)
STEPS = st.builds(
    Step,
    ids=st.lists(NUMBER, max_size=4),
    tokens=st.lists(NUMBER, max_size=4),
    started=st.lists(st.builds(Started, NUMBER, NUMBER), max_size=2),
    finished=st.lists(st.builds(Finished, NUMBER, st.sampled_from(["stop", "length"]), NUMBER), max_size=2),
    logprobs=st.dictionaries(NUMBER, LOGPROBS, max_size=2),
)
ANSWERS = st.builds(Accepted, NUMBER, NUMBER) | st.builds(
    Refused, NUMBER, st.just("context_length_exceeded"), st.text(max_size=20)
)
FROM_ENGINE = st.lists(STEPS | ANSWERS | st.just(Heartbeat(1, 2, 3, EngineCounters(4, 5, 6, 7, 8, 9))), max_size=6)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]


@given(TO_ENGINE, st.lists(NUMBER, max_size=10))
def test_any_split_brings_the_same_messages_to_the_engine(messages: list[ToEngine], cuts: list[int]) -> None:
    decoder: FrameDecoder[ToEngine] = FrameDecoder(ToEngine)
    data = b"".join(frame(message) for message in messages)
    assert [message for piece in split(data, cuts) for message in decoder.feed(piece)] == messages


@given(FROM_ENGINE, st.lists(NUMBER, max_size=10))
def test_any_split_brings_the_same_messages_from_the_engine(messages: list[FromEngine], cuts: list[int]) -> None:
    decoder: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
    data = b"".join(frame(message) for message in messages)
    assert [message for piece in split(data, cuts) for message in decoder.feed(piece)] == messages


@given(FROM_ENGINE)
def test_a_message_comes_with_its_last_byte(messages: list[FromEngine]) -> None:
    decoder: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
    for message in messages:
        data = frame(message)
        assert decoder.feed(data[:-1]) == []
        assert decoder.feed(data[-1:]) == [message]


@given(st.binary(min_size=1, max_size=200))
def test_other_bytes_are_an_error_of_the_protocol_and_nothing_else(data: bytes) -> None:
    decoder: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
    with pytest.raises(ProtocolError, match="not a message"):
        decoder.feed(struct.pack("<I", len(data)) + data)


def test_a_length_beyond_reason_is_refused_before_memory_is_taken() -> None:
    decoder: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
    with pytest.raises(ProtocolError, match="over the limit"):
        decoder.feed(struct.pack("<I", MAX_FRAME + 1))


def test_both_ends_over_a_connection_that_the_hub_hands_on() -> None:
    http_hub, engine_hub = connection_hub()
    with http_hub, engine_hub:
        engine: Channel[ToEngine] = Channel(offer_connection(engine_hub), ToEngine)
        peer = take_connection(http_hub)
        assert peer is not None
        with peer:
            peer.sendall(frame(Cancel(1)) + frame(Cancel(2)))
            assert engine.receive() == [Cancel(1), Cancel(2)]
            engine.send(Accepted(3, 4))
            decoder: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
            assert decoder.feed(peer.recv(65536)) == [Accepted(3, 4)]
        assert engine.receive() is None
        engine.close()


def test_closing_ends_a_receive_in_another_thread() -> None:
    mine, peer = socket.socketpair()
    channel: Channel[ToEngine] = Channel(mine, ToEngine)

    def receive() -> None:
        try:
            assert channel.receive() is None
        except OSError:
            pass  # It was closed before the thread came to it.

    thread = threading.Thread(target=receive)
    thread.start()
    channel.close()
    thread.join(30)
    peer.close()
    assert not thread.is_alive()


def test_a_peer_that_reads_leaves_the_receiver_asleep() -> None:
    mine, peer = socket.socketpair()
    channel: Channel[ToEngine] = Channel(mine, ToEngine)
    switches: list[int] = []

    def receive() -> None:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        assert channel.receive() == [Cancel(1)]
        switches.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before)

    thread = threading.Thread(target=receive)
    thread.start()
    stat = Path(f"/proc/self/task/{thread.native_id}/stat")
    for _ in range(200):
        while stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "S":
            pass
        channel.send(Accepted(1, 1))
        assert peer.recv(65536)
    peer.sendall(frame(Cancel(1)))
    thread.join(30)
    peer.close()
    channel.close()
    assert switches
    assert switches[0] < 50


def test_a_connection_waits_in_the_hub_until_it_is_taken() -> None:
    http_hub, engine_hub = connection_hub()
    with http_hub, engine_hub:
        http_hub.setblocking(False)
        assert take_connection(http_hub) is None
        engine: Channel[ToEngine] = Channel(offer_connection(engine_hub), ToEngine)
        engine.send(Accepted(1, 2))
        engine.close()
        peer = take_connection(http_hub)
        assert peer is not None
        with peer:
            assert FrameDecoder[FromEngine](FromEngine).feed(peer.recv(65536)) == [Accepted(1, 2)]
            assert peer.recv(65536) == b""
