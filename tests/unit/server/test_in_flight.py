"""A request leaves nothing behind, wherever it fails: no entry, no count, no timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from scripted_engine import Engine, connected
from tailrace.errors import ContextLengthExceeded
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.observe.metrics import ModelMetrics
from tailrace.prompt_text import PromptText
from tailrace.protocol import (
    Accepted,
    Cancel,
    Embed,
    EngineQuery,
    Failed,
    Finished,
    Refused,
    Score,
    Started,
    Step,
    Submit,
    Tokenize,
)
from tailrace.server.engine_client import EngineClient
from tailrace.server.generation import Generation
from tailrace.server.generation_request import GenerationRequest

Scene = Callable[[EngineClient, ModelMetrics, Engine], Any]


def registered(client: EngineClient) -> tuple[int, int, int]:
    """Requests, what connections think is in flight, and timers."""
    return (
        len(client.requests),
        sum(connection.in_flight for connection in client._connections.values()),
        len(client.timer._requests),
    )


def run(folder: Path, scene: Scene) -> None:
    async def inside() -> None:
        async with connected(folder) as (client, metrics, engine):
            before = registered(client)
            await asyncio.wait_for(scene(client, metrics, engine), 30.0)
            assert registered(client) == before == (0, 0, 0)

    asyncio.run(inside())


def wanted(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompts": [PromptText("p")], "prompt_param": "prompt", **fields})


def test_a_prompt_that_can_not_be_sent_takes_the_others_along(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        prompts = [PromptText("a"), [2**64]]  # The second has a number that no message can carry.
        with pytest.raises(OverflowError):
            await Generation.start(client, metrics, wanted(prompts=prompts, choices=2))
        first, second = await engine.submitted_copies()
        assert [await engine.heard(), await engine.heard()] == [Cancel(first), Cancel(second)]

    run(tmp_path, scene)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda identity: Tokenize(id=2**64 + identity, text=PromptText("x")), OverflowError),
        (lambda identity: Tokenize(id=identity, text=PromptText("\ud800")), UnicodeEncodeError),
        (lambda identity: Embed(id=identity, inputs=["x", [2**64]]), OverflowError),
        (lambda identity: Score(id=identity, prompt=[2**64]), OverflowError),
    ],
)
def test_a_query_that_can_not_be_sent_is_not_registered(
    tmp_path: Path, make: Callable[[int], EngineQuery], error: type[Exception]
) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        with pytest.raises(error):
            client.query(make, 1, param="prompt")

    run(tmp_path, scene)


def test_a_connection_that_can_not_be_written_to_has_nothing_in_flight(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        (connection,) = client._connections.values()

        def broken(message: bytes) -> None:
            raise MemoryError

        right = connection.write
        connection.write = broken  # type: ignore[method-assign]  # a stand-in that fails
        with pytest.raises(MemoryError):
            await Generation.start(client, metrics, wanted())
        with pytest.raises(MemoryError):
            client.query(lambda identity: Tokenize(id=identity, text=PromptText("x")), 1, param="prompt")
        connection.write = right  # type: ignore[method-assign]  # a stand-in that fails

    run(tmp_path, scene)


@pytest.mark.parametrize("seed", [0, 2**64 - 1, 2**64 - 2, 2**63])
def test_every_choice_has_a_seed_that_can_be_sent(tmp_path: Path, seed: int) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        starting = asyncio.create_task(
            Generation.start(client, metrics, wanted(choices=3, params=GenerationParams(sampling=Sampling(seed=seed))))
        )
        submit = await engine.heard()
        assert isinstance(submit, Submit)
        copies = [submit.copy_number(number) for number in range(submit.copies)]
        seeds = [copy.params.sampling.seed for copy in copies]
        engine.say(*(Accepted(copy.id, 1) for copy in copies))
        assert seeds == [seed, (seed + 1) % 2**64, (seed + 2) % 2**64]
        generation = await starting
        generation.cancel()

    run(tmp_path, scene)


def test_a_client_that_goes_away_before_its_prompt_is_accepted_cancels_it(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        starting = asyncio.create_task(Generation.start(client, metrics, wanted(choices=2), receive))
        identities = await engine.submitted_copies()
        gone.set()
        with pytest.raises(ClientDisconnect):
            await starting
        assert [await engine.heard(), await engine.heard()] == [Cancel(identity) for identity in identities]

    run(tmp_path, scene)


def test_a_refusal_and_a_task_that_is_cancelled_leave_nothing(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        starting = asyncio.create_task(Generation.start(client, metrics, wanted(choices=2)))
        first, _ = await engine.submitted_copies()
        engine.say(Refused(first, "context_length_exceeded", "it is too long", field="suffix"))
        with pytest.raises(ContextLengthExceeded) as caught:
            await starting
        assert caught.value.param == "suffix"
        starting = asyncio.create_task(Generation.start(client, metrics, wanted()))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        query = client.query(lambda identity: Tokenize(id=identity, text=PromptText("x")), 1, param="prompt")
        waiting = asyncio.create_task(query.answers())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        query.withdraw()

    run(tmp_path, scene)


@pytest.mark.parametrize("end", ["finished", "failed", "died"])
def test_a_generation_that_has_ended_before_it_is_started_has_no_timer(tmp_path: Path, end: str) -> None:
    """Its last message can be read together with Accepted, before the task that waits for that runs again."""

    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        starting = asyncio.create_task(Generation.start(client, metrics, wanted()))
        identity = await engine.submitted()
        finished = [Finished(identity, "stop", 1)] if end == "finished" else []
        failed = [Failed(identity, "no number")] if end == "failed" else []
        engine.say(Accepted(identity, 1), Step([], [], [], finished, {}, failed))
        if end == "died":
            engine.die()
        generation = await starting
        await generation.finished()

    run(tmp_path, scene)


def test_a_prompt_is_sent_once_for_all_its_replies(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        sent: list[int] = []
        (connection,) = client._connections.values()
        write = connection.write

        def count(message: bytes) -> None:
            sent.append(len(message))
            write(message)

        connection.write = count  # type: ignore[method-assign]  # counts what is sent
        request = wanted(prompts=[PromptText("p" * 100_000)], choices=128)
        starting = asyncio.create_task(Generation.start(client, metrics, request))
        identities = await engine.submitted_copies()
        assert len(identities) == 128
        assert sum(sent) < 200_000
        engine.say(*(Accepted(identity, 1) for identity in identities))
        generation = await starting
        assert (client.running, client.waiting, client.unanswered) == (4, 124, 0)
        generation.cancel()
        assert (client.running, client.waiting, client.unanswered) == (0, 0, 0)

    run(tmp_path, scene)


def test_the_oldest_waiting_generation_is_the_oldest_of_the_youngest(tmp_path: Path) -> None:
    """Of those without a first token, the engine computes the oldest prompts; the others wait."""

    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        requests = client.requests
        starts = [asyncio.create_task(Generation.start(client, metrics, wanted())) for _ in range(3)]
        ids = [(await engine.submitted_copies())[0] for _ in starts]
        assert requests.oldest_wait(0) == 0.0
        all_waits, one_waits = requests.oldest_wait(3), requests.oldest_wait(1)
        assert 0 < one_waits < all_waits
        requests.on_step(Step([], [], [Started(ids[0], 0)], [], {}))
        assert len(requests._unstarted) == 2, "one has its first token"
        for identity in ids:
            requests.cancel(identity)
        assert requests._unstarted == {}
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)

    run(tmp_path, scene)
