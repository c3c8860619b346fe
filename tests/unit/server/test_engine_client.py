"""A callback that raises ends its own request: the connection and the other requests go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from scripted_engine import Engine, connected
from tailrace.errors import EngineUnavailable
from tailrace.prompt_text import PromptText
from tailrace.protocol import (
    Accepted,
    Cancel,
    Failed,
    Finished,
    FromEngine,
    Predicted,
    Progress,
    Refused,
    Started,
    Step,
    Submit,
    Tokenize,
    Tokenized,
)
from tailrace.server.engine_client import EngineClient

#: Seconds after which a message is taken as lost.
WAIT = 3.0


class Defect(Exception):
    """What a callback raises in these tests."""


class Recorder:
    """The callbacks of one request: notes their names, and raises in the one named ``raises``."""

    def __init__(self, raises: str = "") -> None:
        self.calls: list[str] = []
        self.accepted = False
        self.defects: list[Exception] = []
        self._raises = raises

    def __getattr__(self, name: str) -> Callable[..., None]:
        def callback(*arguments: object) -> None:
            self.calls.append(name)
            if name == self._raises:
                raise Defect(name)

        return callback

    def on_defect(self, error: Exception) -> None:
        self.defects.append(error)
        if self._raises == "on_defect too":
            raise Defect("on_defect too")


def submit(client: EngineClient, callbacks: Any) -> int:
    return client.submit(lambda identity: Submit(id=identity, prompt=PromptText("p")), callbacks)


def play(folder: Path, scene: Callable[[EngineClient, Engine], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with connected(folder) as (client, _, engine):
            await asyncio.wait_for(scene(client, engine), WAIT)
            assert len(client.requests) == 0
            assert [connection.in_flight for connection in client._connections.values()] == [0]

    asyncio.run(inside())


def step(**fields: Any) -> Step:
    return Step(**{"ids": [], "tokens": [], "started": [], "finished": [], "logprobs": {}, **fields})


MESSAGES: dict[str, Callable[[int], FromEngine]] = {
    "on_answer": lambda identity: Accepted(identity, 1),
    "on_prefilled": lambda identity: step(started=[Started(identity, 0)]),
    "on_progress": lambda identity: step(progress=[Progress(identity, 4, 0, 2, 0.1)]),
    "on_prediction": lambda identity: step(predicted=[Predicted(identity, 1, 0)]),
    "on_token": lambda identity: step(ids=[identity], tokens=[97]),
}
LAST_MESSAGES: dict[str, Callable[[int], FromEngine]] = {
    "on_answer": lambda identity: Refused(identity, "unsupported", "no"),
    "on_finished": lambda identity: step(finished=[Finished(identity, "stop", 1)]),
    "on_failed": lambda identity: step(failed=[Failed(identity, "no number")]),
}


async def goes_on(client: EngineClient, engine: Engine, other: int, calls: list[str]) -> None:
    """The other request gets its messages and ends."""
    engine.say(step(ids=[other], tokens=[98]), step(finished=[Finished(other, "stop", 1)]))
    while "on_finished" not in calls:
        await asyncio.sleep(0.001)
    assert calls == ["on_token", "on_finished"]
    assert client.state == "ok"


@pytest.mark.parametrize("raises", MESSAGES)
def test_a_callback_that_raises_ends_its_request(tmp_path: Path, raises: str) -> None:
    async def scene(client: EngineClient, engine: Engine) -> None:
        broken, whole = Recorder(raises), Recorder()
        identity, other = submit(client, broken), submit(client, whole)
        assert [await engine.submitted(), await engine.submitted()] == [identity, other]
        engine.say(MESSAGES[raises](identity))
        assert await engine.heard() == Cancel(identity)
        engine.say(MESSAGES[raises](identity))  # It was on its way.
        await goes_on(client, engine, other, whole.calls)
        assert broken.calls == [raises]
        (defect,) = broken.defects
        assert isinstance(defect, Defect)

    play(tmp_path, scene)


@pytest.mark.parametrize("raises", LAST_MESSAGES)
def test_a_last_callback_that_raises_leaves_nothing(tmp_path: Path, raises: str) -> None:
    async def scene(client: EngineClient, engine: Engine) -> None:
        broken, whole = Recorder(raises), Recorder()
        identity, other = submit(client, broken), submit(client, whole)
        engine.say(LAST_MESSAGES[raises](identity))
        await goes_on(client, engine, other, whole.calls)
        (defect,) = broken.defects
        assert isinstance(defect, Defect)

    play(tmp_path, scene)


def test_even_the_report_of_a_defect_may_raise(tmp_path: Path) -> None:
    async def scene(client: EngineClient, engine: Engine) -> None:
        class Worst(Recorder):
            def on_token(self, *_: object) -> None:
                raise Defect("on_token")

        worst, whole = Worst("on_defect too"), Recorder()
        identity, other = submit(client, worst), submit(client, whole)
        engine.say(step(ids=[identity, other], tokens=[97, 97]))
        engine.say(step(finished=[Finished(other, "stop", 1)]))
        while "on_finished" not in whole.calls:
            await asyncio.sleep(0.001)
        assert len(worst.defects) == 1

    play(tmp_path, scene)


def test_the_death_of_an_engine_reaches_every_request(tmp_path: Path) -> None:
    async def scene() -> None:
        async with connected(tmp_path) as (client, _, engine):
            first, second = Recorder("on_failed"), Recorder()
            submit(client, first)
            submit(client, second)
            engine.die()
            while "on_failed" not in second.calls:
                await asyncio.sleep(0.001)
            assert len(first.defects) == 1
            assert len(client.requests) == 0

    asyncio.run(asyncio.wait_for(scene(), WAIT))


def test_an_answer_of_the_wrong_kind_ends_its_request(tmp_path: Path) -> None:
    async def scene(client: EngineClient, engine: Engine) -> None:
        whole = Recorder()
        other = submit(client, whole)
        query = client.query(lambda identity: Tokenize(id=identity, text=PromptText("x")), 1, param="prompt")
        await engine.submitted()
        message = await engine.heard()
        assert isinstance(message, Tokenize)
        # A generation's message, and an answer for a generation: both are defects of the engine.
        engine.say(Accepted(message.id, 1), Tokenized(other, [1]))
        with pytest.raises(AssertionError):
            await query.answers()
        while not whole.defects:
            await asyncio.sleep(0.001)
        assert client.state == "ok"

    play(tmp_path, scene)


def test_a_ready_hook_that_raises_leaves_the_connection(tmp_path: Path) -> None:
    """The announcement may find that standard output is closed."""

    async def scene() -> None:
        def raising(client: EngineClient) -> None:
            def on_ready(_: object) -> None:
                raise BrokenPipeError

            client.on_ready = on_ready

        async with connected(tmp_path, raising) as (client, _, engine):
            recorder = Recorder()
            identity = submit(client, recorder)
            assert await engine.submitted() == identity
            assert client.state == "ok"

    asyncio.run(asyncio.wait_for(scene(), WAIT))


def test_an_engine_that_reads_nothing_gets_no_more_than_its_backlog(tmp_path: Path) -> None:
    async def scene(client: EngineClient, engine: Engine) -> None:
        prompt = PromptText("x" * 10_000_000)
        recorder: Any = Recorder()

        def send_and_leave() -> bool:
            try:
                client.cancel(client.submit(lambda identity: Submit(id=identity, prompt=prompt), recorder))
            except EngineUnavailable:
                return False
            return True

        sent = 0
        while send_and_leave():
            sent += 1
            assert sent < 20
        assert sent >= 3
        with pytest.raises(EngineUnavailable, match="takes no requests"):
            client.query(lambda identity: Tokenize(id=identity, text=prompt), 1, param="prompt")
        for _ in range(2 * sent):  # Each with its cancel.
            await engine.heard()
        assert send_and_leave()

    play(tmp_path, scene)
