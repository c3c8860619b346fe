"""A generation between a scripted engine, at the other end of a real socket, and its sink."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from scripted_engine import Engine, connected
from tailrace.errors import ContextLengthExceeded, EngineDied, SlowReader
from tailrace.generation_params import GenerationParams
from tailrace.observe.metrics import ModelMetrics
from tailrace.prompt_text import PromptText
from tailrace.protocol import Accepted, Cancel, Finished, Heartbeat, Predicted, Refused, Started, Step
from tailrace.server.engine_client import EngineClient
from tailrace.server.events import Event, Failure, Finish, TextDelta, Usage
from tailrace.server.generation import Generation
from tailrace.server.generation_request import GenerationRequest


class EventSink:
    """Remembers what it is told; ``fault`` makes it fail on a text."""

    def __init__(self, fault: str | None = None) -> None:
        self.events: list[Event] = []
        self.ticks = 0
        self._fault = fault

    def emit(self, event: Event) -> None:
        if isinstance(event, TextDelta) and event.text == self._fault:
            raise ZeroDivisionError(self._fault)
        self.events.append(event)

    def tick(self, seconds: float) -> None:
        self.ticks += 1

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


def tokens(identity: int, text: bytes) -> list[Step]:
    """A step for each byte."""
    return [Step([identity], [value], [], [], {}) for value in text]


def end(identity: int, count: int) -> Step:
    return Step([], [], [], [Finished(identity, "stop", count)], {})


Scenario = Callable[[EngineClient, ModelMetrics, Engine], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs a scenario with a client and an engine."""

    def run(scenario: Scenario) -> None:
        async def inside() -> None:
            async with connected(tmp_path) as (client, metrics, engine):
                await asyncio.wait_for(scenario(client, metrics, engine), 30.0)

        asyncio.run(inside())

    return run


async def accepted(
    client: EngineClient, metrics: ModelMetrics, engine: Engine, **fields: object
) -> tuple[Generation, int]:
    """A generation with one choice that the engine has accepted, and its id."""
    request = GenerationRequest(prompts=[PromptText("p")], prompt_param="prompt", **fields)  # type: ignore[arg-type]  # fields of several types
    starting = asyncio.create_task(Generation.start(client, metrics, request))
    identity = await engine.submitted()
    engine.say(Accepted(identity, 1))
    return await starting, identity


def test_events_before_attach_reach_the_sink_first(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        first = asyncio.create_task(
            Generation.start(client, metrics, GenerationRequest(prompts=[PromptText("p")], prompt_param="prompt"))
        )
        identity = await engine.submitted()
        engine.say(Accepted(identity, 7), Step([], [], [Started(identity, 3)], [], {}), *tokens(identity, b"ab"))
        generation = await first
        listener = EventSink()
        generation.attach(listener)
        assert listener.text == "ab"
        engine.say(*tokens(identity, b"cd"), end(identity, 5))
        await generation.finished()
        assert listener.text == "abcd"
        assert listener.events[-2:] == [Finish(0, "stop"), Usage(7, 5, 3)]

    play(scenario)


def test_a_whole_generation_may_be_over_before_attach(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        request = GenerationRequest(prompts=[PromptText("p")], prompt_param="prompt")
        first = asyncio.create_task(Generation.start(client, metrics, request))
        identity = await engine.submitted()
        engine.say(Accepted(identity, 1), *tokens(identity, b"ab"), end(identity, 3))
        generation = await first
        listener = EventSink()
        generation.attach(listener)
        await generation.finished()
        assert listener.events == [TextDelta(0, "a"), TextDelta(0, "b"), Finish(0, "stop"), Usage(1, 3, 0)]

    play(scenario)


def test_a_defect_ends_its_own_request_and_no_other(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        broken, one = await accepted(client, metrics, engine)
        whole, two = await accepted(client, metrics, engine)
        listener = EventSink()
        broken.attach(EventSink(fault="x"))
        whole.attach(listener)
        for value in b"axb":
            engine.say(Step([one, two], [value, value], [], [], {}))
        with pytest.raises(ZeroDivisionError):
            await broken.finished()
        assert await engine.heard() == Cancel(one)
        engine.say(end(two, 4))
        await whole.finished()
        assert listener.text == "axb"

    play(scenario)


def test_a_stop_string_cancels_the_rest_and_nothing_of_it_is_emitted(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        generation, identity = await accepted(client, metrics, engine, stops=("END",))
        listener = EventSink()
        generation.attach(listener)
        engine.say(*tokens(identity, b"abENDcd"))
        await generation.finished()
        assert await engine.heard() == Cancel(identity)
        assert listener.text == "ab"
        assert listener.events[-2:] == [Finish(0, "stop", "END"), Usage(1, 5, 0)]

    play(scenario)


def test_tokens_of_reasoning_are_counted(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        generation, identity = await accepted(client, metrics, engine, chat=True)
        listener = EventSink()
        generation.attach(listener)
        said = b"<think>why?</think>so"
        engine.say(*tokens(identity, said), end(identity, len(said)))
        await generation.finished()
        assert listener.events[-1] == Usage(1, len(said), 0, len(b"<think>why?"))

    play(scenario)


def test_a_failure_has_the_usage_until_then(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        generation, identity = await accepted(client, metrics, engine)
        listener = EventSink()
        generation.attach(listener)
        engine.say(*tokens(identity, b"abc"))
        engine.die()
        await generation.finished()
        failure = listener.events[-1]
        assert isinstance(failure, Failure)
        assert failure.usage == Usage(1, 3, 0, 0)

    play(scenario)


def test_after_a_cancel_nothing_is_emitted(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        generation, identity = await accepted(client, metrics, engine)
        other, fence = await accepted(client, metrics, engine)
        listener = EventSink()
        generation.attach(listener)
        other.attach(EventSink())
        generation.cancel()
        generation.cancel()
        await generation.finished()
        assert await engine.heard() == Cancel(identity)
        engine.say(*tokens(identity, b"ab"), end(fence, 1))
        await other.finished()
        assert listener.events == []

    play(scenario)


def test_an_engines_death_is_one_failure_however_many_replies_it_takes_along(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        request = GenerationRequest(prompts=[PromptText("p")], prompt_param="prompt", choices=3)
        starting = asyncio.create_task(Generation.start(client, metrics, request))
        ids = await engine.submitted_copies()
        engine.say(*(Accepted(identity, 1) for identity in ids))
        generation = await starting
        listener = EventSink()
        generation.attach(listener)
        engine.say(*tokens(ids[1], b"a"))
        while not listener.events:
            await asyncio.sleep(0.001)
        engine.die()
        await generation.finished()
        text, failure = listener.events
        assert isinstance(text, TextDelta)
        assert isinstance(failure, Failure)
        assert isinstance(failure.error, EngineDied)

    play(scenario)


def test_a_refusal_of_one_reply_cancels_the_others(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        request = GenerationRequest(prompts=[PromptText("p"), PromptText("q")], prompt_param="prompt")
        starting = asyncio.create_task(Generation.start(client, metrics, request))
        first, second = await engine.submitted(), await engine.submitted()
        engine.say(Accepted(first, 1), Refused(second, "context_length_exceeded", "too long"))
        with pytest.raises(ContextLengthExceeded):
            await starting
        assert await engine.heard() == Cancel(first)

    play(scenario)


def test_the_one_timer_ticks_for_those_that_run(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        async def ticked(listener: EventSink) -> None:
            before = listener.ticks
            while listener.ticks < before + 2:
                await asyncio.sleep(0.001)

        failing, identity = await accepted(client, metrics, engine)
        running, _ = await accepted(client, metrics, engine)
        ended, others = EventSink(), EventSink()
        failing.attach(ended)
        running.attach(others)
        await ticked(ended)
        failing.fail(SlowReader("too slow"))
        before = ended.ticks
        assert await engine.heard() == Cancel(identity)
        await ticked(others)
        assert ended.ticks == before
        (failure,) = ended.events
        assert isinstance(failure, Failure)

    play(scenario)


def test_what_a_prediction_brought_is_counted_though_a_stop_string_ends_the_reply(
    play: Callable[[Scenario], None],
) -> None:
    def guessed(identity: int, text: bytes, accepted: int, rejected: int) -> Step:
        predicted = [Predicted(identity, accepted, rejected)]
        return Step([identity] * len(text), list(text), [], [], {}, [], predicted)

    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        for prediction, counts in (("abcdef", (4, 3)), (None, (None, None))):
            params = GenerationParams(prediction=prediction)
            generation, identity = await accepted(client, metrics, engine, params=params, stops=("de",))
            listener = EventSink()
            generation.attach(listener)
            if prediction is None:
                engine.say(*tokens(identity, b"abcde"))
            else:
                engine.say(guessed(identity, b"ab", 1, 3), guessed(identity, b"cde", 3, 0))
            await generation.finished()
            assert listener.text == "abc"
            usage = listener.events[-1]
            assert isinstance(usage, Usage)
            assert (usage.accepted_tokens, usage.rejected_tokens) == counts
            assert await engine.heard() == Cancel(identity)

    play(scenario)


# What the metrics say


def metric(metrics: ModelMetrics, name: str) -> float:
    (line,) = [line for line in metrics.server.render().decode().splitlines() if line.startswith(name + "{")]
    return float(line.rsplit(" ", 1)[1])


def queue_of(metrics: ModelMetrics) -> tuple[float, float]:
    return metric(metrics, "vllm:num_requests_running"), metric(metrics, "vllm:num_requests_waiting")


def used(metrics: ModelMetrics) -> tuple[float, float, float]:
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:prompt_tokens_cached_total")
    prompt, generated, cached = (metric(metrics, name) for name in names)
    return prompt, generated, cached


def test_a_request_counts_as_running_when_it_is_accepted(play: Callable[[Scenario], None]) -> None:
    """The first byte goes to the client then, and the engine's beat may come half a second later."""

    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        generation, _ = await accepted(client, metrics, engine)
        assert queue_of(metrics) == (1, 0)
        request = GenerationRequest(prompts=[PromptText("q")], prompt_param="prompt")
        second = asyncio.create_task(Generation.start(client, metrics, request))
        other = await engine.submitted()
        assert queue_of(metrics) == (1, 1)
        engine.say(Heartbeat(1, 1, 0), Accepted(other, 1))
        await second
        assert queue_of(metrics) == (1, 1), "the engine has said that one waits"
        generation.cancel()
        assert queue_of(metrics)[0] == 1, "it runs until the engine says otherwise"
        engine.say(Heartbeat(1, 0, 0), *tokens(other, b"a"))
        while metric(metrics, "vllm:num_requests_waiting"):
            await asyncio.sleep(0.001)
        assert queue_of(metrics) == (1, 0)

    play(scenario)


@pytest.mark.parametrize("end_by", ["cancel", "death", "defect", "fail"])
def test_tokens_of_replies_that_broke_off_are_counted_once(play: Callable[[Scenario], None], end_by: str) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        starting = asyncio.create_task(
            Generation.start(
                client, metrics, GenerationRequest(prompts=[PromptText("p")], prompt_param="prompt", choices=2)
            )
        )
        one, two = await engine.submitted_copies()
        engine.say(Accepted(one, 7), Accepted(two, 7))
        generation = await starting
        listener = EventSink(fault="z" if end_by == "defect" else None)
        generation.attach(listener)
        engine.say(Step([], [], [Started(one, 3), Started(two, 6)], [], {}))
        engine.say(*tokens(one, b"ab"), end(one, 3), *tokens(two, b"abcd"))
        while len(listener.text) < 6:
            await asyncio.sleep(0.001)
        if end_by == "cancel":
            generation.cancel()
        elif end_by == "fail":
            generation.fail(SlowReader("slow"))
        elif end_by == "death":
            engine.die()
        else:
            engine.say(*tokens(two, b"z"))
        try:
            await generation.finished()
        except ZeroDivisionError:
            assert end_by == "defect"
        generation.cancel()
        assert used(metrics) == (7, 7 + (end_by == "defect"), 3)

    play(scenario)


def test_a_prompt_that_was_never_read_is_not_counted(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        generation, _ = await accepted(client, metrics, engine)
        generation.cancel()
        assert used(metrics) == (0, 0, 0)

    play(scenario)


def test_a_reply_is_gone_with_its_last_user(play: Callable[[Scenario], None]) -> None:
    """Not only after a collection of old objects, which is rare."""

    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        generation, identity = await accepted(client, metrics, engine)
        sink = EventSink()
        generation.attach(sink)
        engine.say(*tokens(identity, b"hi"), end(identity, 2))
        await generation.finished()
        assert sink.text == "hi"
        held: list[weakref.ref[Generation] | weakref.ref[EventSink]] = [weakref.ref(generation), weakref.ref(sink)]
        del generation, sink
        await asyncio.sleep(0)
        assert [reference() for reference in held] == [None, None]

    gc.disable()
    try:
        play(scenario)
    finally:
        gc.enable()


def test_every_choice_of_a_lost_engine_may_report_it(play: Callable[[Scenario], None]) -> None:
    async def scenario(client: EngineClient, metrics: ModelMetrics, engine: Engine) -> None:
        request = GenerationRequest(prompts=[PromptText("p")], prompt_param="prompt", choices=2)
        starting = asyncio.create_task(Generation.start(client, metrics, request))
        identities = await engine.submitted_copies()
        engine.say(*(Accepted(identity, 1) for identity in identities), *tokens(identities[0], b"a"))
        generation = await starting
        sink = EventSink()
        generation.attach(sink)
        engine.die()
        await generation.finished()
        assert [type(event) for event in sink.events] == [TextDelta, Failure]

    play(scenario)
