"""Who gets the state, and what happens to a subscriber that doesn't read."""

from __future__ import annotations

import asyncio

import msgspec

from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster_protocol.prefix_chain import pack_hashes
from tailrace.cluster_protocol.state import (
    CHANGE_SECONDS,
    MAX_HELD_BLOCKS,
    ReplicaPhase,
    ReplicaState,
    StateChange,
    StateMessage,
)
from tailrace.protocol import PrefixReport
from tailrace.server.cluster.state_feed import StateFeed
from tailrace.server.engine_connection import EngineConnection


class Client:
    """A subscriber's connection: both what its body and what its response are written to."""

    def __init__(self, *, reads: bool = True) -> None:
        self.lines: list[bytes] = []
        self.aborted = False
        self._reads = reads

    @property
    def waiting_bytes(self) -> int:
        return 0 if self._reads else 100_000_000

    def write(self, line: bytes) -> None:
        self.lines.append(line)

    def abort(self) -> None:
        self.aborted = True

    def messages(self) -> list[StateMessage]:
        return [msgspec.json.decode(line, type=StateMessage) for line in self.lines]


def test_a_subscriber_that_does_not_read_is_dropped_and_others_go_on() -> None:
    async def run() -> None:
        phase: ReplicaPhase = "ready"
        feed = StateFeed(lambda: phase, list, lambda connections: False)
        good, bad = Client(), Client(reads=False)
        one = feed.subscribe(good, good)  # type: ignore[arg-type]  # a part of both
        other = feed.subscribe(bad, bad)  # type: ignore[arg-type]
        phase = "draining"
        await asyncio.wait_for(other.ended, 30)
        assert bad.aborted
        while len(good.lines) < 2:
            await asyncio.sleep(CHANGE_SECONDS)
        assert [type(message) for message in good.messages()[:2]] == [ReplicaState, StateChange]
        assert not one.ended.done()
        feed.unsubscribe(one)
        feed.unsubscribe(other)

    asyncio.run(run())


def test_a_later_subscriber_gets_what_the_earlier_ones_were_told() -> None:
    async def run() -> None:
        phase: ReplicaPhase = "starting"
        feed = StateFeed(lambda: phase, list, lambda connections: False)
        first, second = Client(), Client()
        one = feed.subscribe(first, first)  # type: ignore[arg-type]  # a part of both
        phase = "ready"
        other = feed.subscribe(second, second)  # type: ignore[arg-type]
        assert first.messages()[1:] == [StateChange(phase="ready")]
        (state,) = second.messages()
        assert isinstance(state, ReplicaState)
        assert state.phase == "ready"
        feed.unsubscribe(one)
        feed.unsubscribe(other)

    asyncio.run(run())


def test_a_state_of_many_engines_comes_in_parts_that_can_be_read() -> None:
    async def run() -> None:
        phase: ReplicaPhase = "ready"
        feed = StateFeed(lambda: phase, list, lambda connections: False)
        for number in range(3):
            engine = EngineConnection(None)  # type: ignore[arg-type]  # it never connects
            engine.replica = number
            blocks = range(number * MAX_HELD_BLOCKS, (number + 1) * MAX_HELD_BLOCKS)
            feed.on_prefixes(engine, "m", PrefixReport(held=(pack_hashes([*blocks]),)))
        client = Client()
        subscriber = feed.subscribe(client, client)  # type: ignore[arg-type]
        view = ReplicaView("r", "", 0)
        for message in client.messages():
            view.apply(message)
        assert len(view.held) == 3 * MAX_HELD_BLOCKS
        assert max(map(len, client.lines)) < 1_000_000
        feed.unsubscribe(subscriber)

    asyncio.run(run())
