"""What a generation waits for: its place in the queue, its deadlines, and the next engine after one has died."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from scripted_engine import Engine, connected
from tailrace.errors import ContextLengthExceeded, DeadlineExceeded, EngineDied, EngineUnavailable, RequestError
from tailrace.observe.metrics import ModelMetrics
from tailrace.prompt_text import PromptText
from tailrace.protocol import Accepted, Cancel, Finished, Progress, Refused, Started, Step, Submit
from tailrace.server.admission import AdmissionQueue, QueuePlace
from tailrace.server.deadlines import Deadlines
from tailrace.server.engine_client import EngineClient
from tailrace.server.events import Event, Failure, Finish, TextDelta, Usage
from tailrace.server.generation import Generation
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.tracked_choice import TrackingOptions

Scene = Callable[[EngineClient, ModelMetrics, Engine], Awaitable[None]]


class Sink:
    """Remembers the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def tick(self, seconds: float) -> None: ...

    @property
    def error(self) -> RequestError:
        (failure,) = [event for event in self.events if isinstance(event, Failure)]
        assert self.events[-1] is failure
        return failure.error


def run(folder: Path, scene: Scene, *, wait_seconds: float = 5.0) -> None:
    async def inside() -> None:
        async with connected(folder, wait_seconds=wait_seconds) as (client, metrics, engine):
            await asyncio.wait_for(scene(client, metrics, engine), 30.0)
            assert len(client.requests) == 0
            assert not client.timer._requests

    asyncio.run(inside())


def wanted(**fields: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompts": [PromptText("p" * 40)], "prompt_param": "prompt", **fields})


def a_place(requests: int, tokens: int) -> tuple[AdmissionQueue, QueuePlace]:
    queue = AdmissionQueue(max_waiting=100, max_waiting_tokens=1000, capacity=lambda: 1)
    place = queue.enter("a")
    place.claim(requests, tokens)
    return queue, place


def begin(
    client: EngineClient, metrics: ModelMetrics, request: GenerationRequest, **more: Any
) -> asyncio.Task[Generation]:
    return asyncio.create_task(Generation.start(client, metrics, request, **more))


# The end of an engine


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("tracking", [None, TrackingOptions(progress=True)])
def test_a_request_without_a_token_goes_to_the_next_engine(
    tmp_path: Path, accepted: bool, tracking: TrackingOptions | None
) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        sink = Sink()
        starting = begin(client, metrics, wanted(choices=2, tracking=tracking))
        ids = await engine.submitted_copies()
        if accepted:
            engine.say(*(Accepted(identity, 10) for identity in ids))
            (await starting).attach(sink)
            engine.say(Step([], [], [], [], {}, progress=[Progress(ids[0], 10, 0, 5, 0.1)]))
        following = await engine.replaced()
        one, two = await following.submitted_copies()
        following.say(Accepted(one, 10), Accepted(two, 10))
        generation = await starting
        if not accepted:
            generation.attach(sink)
        following.say(
            Step([one, two], [97, 98], [Started(one, 4), Started(two, 4)], [], {}),
            Step([], [], [], [Finished(one, "stop", 2), Finished(two, "stop", 2)], {}),
        )
        await generation.finished()
        texts = {event.choice: event.text for event in sink.events if isinstance(event, TextDelta)}
        assert texts == {0: "a", 1: "b"}
        assert sum(isinstance(event, Finish) for event in sink.events) == 2
        usage = sink.events[-1]
        assert isinstance(usage, Usage)
        assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (10, 4, 4)

    run(tmp_path, scene)


def test_a_second_death_ends_the_request(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        starting = begin(client, metrics, wanted())
        await engine.submitted()
        following = await engine.replaced()
        await following.submitted()
        following.die()
        with pytest.raises(EngineDied):
            await starting

    run(tmp_path, scene)


def test_a_reply_that_has_a_token_ends_with_its_engine(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        starting = begin(client, metrics, wanted(choices=2))
        one, two = await engine.submitted_copies()
        engine.say(Accepted(one, 10), Accepted(two, 10))
        generation, sink = await starting, Sink()
        generation.attach(sink)
        engine.say(Step([two], [97], [Started(two, 4)], [], {}))
        while not sink.events:
            await asyncio.sleep(0.001)
        engine.die()
        await generation.finished()
        assert isinstance(sink.error, EngineDied)

    run(tmp_path, scene)


@pytest.mark.parametrize("accepted", [False, True])
def test_without_a_next_engine_in_time_it_ends(tmp_path: Path, accepted: bool) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        sink = Sink()
        starting = begin(client, metrics, wanted())
        identity = await engine.submitted()
        if accepted:
            engine.say(Accepted(identity, 10))
            (await starting).attach(sink)
        engine.die()
        if not accepted:
            with pytest.raises(EngineUnavailable):
                await starting
            return
        await (await starting).finished()
        assert isinstance(sink.error, EngineUnavailable)

    run(tmp_path, scene, wait_seconds=0.1)


def test_the_next_engine_may_refuse_it(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        sink = Sink()
        starting = begin(client, metrics, wanted())
        engine.say(Accepted(await engine.submitted(), 10))
        generation = await starting
        generation.attach(sink)
        following = await engine.replaced()
        following.say(Refused(await following.submitted(), "context_length_exceeded", "too long"))
        await generation.finished()
        assert isinstance(sink.error, ContextLengthExceeded)

    run(tmp_path, scene)


def test_a_client_that_leaves_meanwhile_sends_nothing_to_the_next_engine(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        queue, place = a_place(1, 10)
        starting = begin(client, metrics, wanted(), queue_place=place)
        engine.say(Accepted(await engine.submitted(), 10))
        generation = await starting
        engine.die()
        while client.is_ready:
            await asyncio.sleep(0.001)
        generation.cancel()
        assert (queue.requests, queue.tokens) == (0, 0)
        following = await engine.replaced()
        await client.ready()
        client.submit(lambda identity: Submit(id=identity, prompt=[1]), _Ignoring())
        submit = await following.heard()
        assert isinstance(submit, Submit)
        assert submit.prompt == [1]
        client.cancel(submit.id)

    run(tmp_path, scene)


class _Ignoring:
    """The callbacks of a request that isn't looked at."""

    accepted = False

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


# The place in the queue


def test_a_place_is_given_back_reply_by_reply(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        queue, place = a_place(4, 22)  # Two prompts of 40 characters are guessed at 11 tokens each.
        prompts = [PromptText("p" * 40), PromptText("q" * 40)]
        starting = begin(client, metrics, wanted(prompts=prompts, choices=2), queue_place=place)
        ids = [*await engine.submitted_copies(), *await engine.submitted_copies()]
        engine.say(*(Accepted(identity, 30) for identity in ids))
        generation = await starting
        assert (queue.requests, queue.tokens) == (4, 60)
        sink = Sink()
        generation.attach(sink)
        engine.say(Step([ids[0], ids[1]], [97, 97], [Started(ids[0], 0), Started(ids[1], 30)], [], {}))
        while len(sink.events) < 2:
            await asyncio.sleep(0.001)
        assert (queue.requests, queue.tokens) == (4, 30), "the copies share one prompt"
        engine.say(Step([], [], [], [Finished(ids[1], "stop", 1)], {}))
        while len(sink.events) < 3:
            await asyncio.sleep(0.001)
        assert (queue.requests, queue.tokens) == (3, 30)
        generation.cancel()
        assert (queue.requests, queue.tokens, queue.callers) == (0, 0, 0)

    run(tmp_path, scene)


def test_a_refusal_gives_the_place_back(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        queue, place = a_place(2, 11)
        starting = begin(client, metrics, wanted(choices=2), queue_place=place)
        ids = await engine.submitted_copies()
        engine.say(*(Refused(identity, "invalid_prompt", "no") for identity in ids))
        with pytest.raises(RequestError):
            await starting
        assert (queue.requests, queue.tokens, queue.callers) == (0, 0, 0)

    run(tmp_path, scene)


# Deadlines


def within(queue: float = math.inf, first_token: float = math.inf, total: float = math.inf) -> Deadlines:
    now = time.monotonic()
    return Deadlines(now, now + queue, now + first_token, now + total)


@pytest.mark.parametrize(
    ("deadlines", "code"),
    [
        ({"queue": 0.05}, "queue_timeout"),
        ({"first_token": 0.05}, "first_token_timeout"),
        ({"total": 0.05}, "request_timeout"),
    ],
)
def test_a_deadline_ends_the_stream_and_stops_the_engine(
    tmp_path: Path, deadlines: dict[str, float], code: str
) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        queue, place = a_place(1, 10)
        starting = begin(client, metrics, wanted(), queue_place=place, deadlines=within(**deadlines))
        submit = await engine.heard()
        assert isinstance(submit, Submit)
        assert submit.progress == ("queue" in deadlines)
        engine.say(Accepted(submit.id, 10))
        generation, sink = await starting, Sink()
        generation.attach(sink)
        await generation.finished()
        assert isinstance(sink.error, DeadlineExceeded)
        assert sink.error.code == code
        assert await engine.heard() == Cancel(submit.id)
        assert (queue.requests, queue.tokens) == (0, 0)

    run(tmp_path, scene)


def test_deadlines_that_were_met_have_no_effect(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        starting = begin(client, metrics, wanted(), deadlines=within(queue=0.3, first_token=0.3))
        identity = await engine.submitted()
        engine.say(Accepted(identity, 10), Step([identity], [97], [Started(identity, 0)], [], {}, progress=[]))
        generation, sink = await starting, Sink()
        generation.attach(sink)
        ticks = asyncio.get_running_loop().time() + 0.5
        while asyncio.get_running_loop().time() < ticks:
            await asyncio.sleep(0.01)
        engine.say(Step([], [], [], [Finished(identity, "stop", 1)], {}))
        await generation.finished()
        assert isinstance(sink.events[-1], Usage)

    run(tmp_path, scene)


def test_an_engine_that_has_begun_ends_the_time_in_the_queue(tmp_path: Path) -> None:
    async def scene(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        starting = begin(client, metrics, wanted(), deadlines=within(queue=0.2, first_token=0.6))
        identity = await engine.submitted()
        engine.say(Accepted(identity, 10), Step([], [], [], [], {}, progress=[Progress(identity, 10, 0, 0, 0.0)]))
        generation, sink = await starting, Sink()
        generation.attach(sink)
        await generation.finished()
        assert isinstance(sink.error, DeadlineExceeded)
        assert sink.error.code == "first_token_timeout"

    run(tmp_path, scene)
