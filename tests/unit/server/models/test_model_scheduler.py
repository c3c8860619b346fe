"""The gate of several models: orders to load and unload, waiting requests, failures, and requests that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from tailrace.errors import ModelLoadFailed, ModelNotFound, ShuttingDown
from tailrace.observe.model_figures import LoadFigures
from tailrace.server.models.model_scheduler import ModelScheduler
from tailrace.server.models.model_service import ModelService
from tailrace.server.models.model_turn import ModelTurn
from tailrace.serving.control import ModelPhase
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings


class Engine:
    capacity = 2


class Service:
    """A ``ModelService`` whose engines are a test's."""

    def __init__(self, name: str, **settings: Any) -> None:
        self.name = name
        self.spec = ModelSpec(name=name, path=None, settings=Settings(backend="fake", **settings))
        self.phase: ModelPhase = "unloaded"
        self.reason = ""
        self.figures = LoadFigures()
        self.engine = Engine()
        self.waiting = self.running = 0
        self.last_used = 0.0
        self.on_change: list[Callable[[ModelService], None]] = []
        self.orders: list[str] = []

    def load(self) -> None:
        self.orders.append("load")
        self.enter("starting")

    def unload(self) -> None:
        self.orders.append("unload")
        self.enter("stopping")

    def enter(self, phase: ModelPhase, reason: str = "") -> None:
        self.phase, self.reason = phase, reason
        for call in self.on_change:
            call(cast(ModelService, self))

    def load_error(self) -> ModelLoadFailed:
        return ModelLoadFailed(f"The model '{self.name}' can't be loaded: {self.reason}")


def planned(spec: ModelSpec, budget: int) -> int:
    return 300_000_000 if spec.name == "huge" else 100_000_000


class Gate:
    """A scheduler of models of 100 MB each."""

    def __init__(self, megabytes: int, *services: Service) -> None:
        self.scheduler = ModelScheduler(megabytes * 1_000_000, plan=planned)
        for service in services:
            self.scheduler.add(cast(ModelService, service))

    def turn(self, service: Service, caller: str = "") -> ModelTurn:
        return ModelTurn(self.scheduler, cast(ModelService, service), caller)

    def wait(self, service: Service, caller: str = "") -> tuple[ModelTurn, asyncio.Task[None]]:
        """A request that has to wait."""
        turn = self.turn(service, caller)
        assert not turn.try_begin()
        return turn, asyncio.create_task(turn.begin())


async def settle(condition: Callable[[], bool] = lambda: True) -> None:
    """Let the loop go on until ``condition`` holds; planning has a thread."""
    for _ in range(500):
        await asyncio.sleep(0.002)
        if condition():
            return
    raise AssertionError("it never holds")


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(cast(Any, test()))


async def loaded(gate: Gate, service: Service) -> ModelTurn:
    """A request whose model is loaded for it, and that runs."""
    turn, task = gate.wait(service)
    await settle(lambda: service.orders[-1:] == ["load"])
    service.enter("serving")
    await task
    assert turn.begun
    return turn


def test_a_request_has_its_model_loaded_and_the_next_one_begins_at_once() -> None:
    async def test() -> None:
        a = Service("a")
        gate = Gate(100, a)
        turn = await loaded(gate, a)
        assert gate.turn(a).try_begin()
        assert a.orders == ["load"]
        turn.close()

    run(test)


def test_a_model_with_requests_is_not_unloaded_for_another() -> None:
    async def test() -> None:
        a, b = Service("a"), Service("b")
        gate = Gate(100, a, b)
        turn = await loaded(gate, a)
        _, waits = gate.wait(b)
        await settle()
        await asyncio.sleep(0.05)
        assert (a.orders, b.orders) == (["load"], [])
        turn.close()
        await settle(lambda: a.orders == ["load", "unload"])
        assert b.orders == [], "its memory isn't free yet"
        a.enter("unloaded")
        await settle(lambda: b.orders == ["load"])
        b.enter("serving")
        await waits

    run(test)


def test_a_request_that_leaves_has_no_model_loaded() -> None:
    async def test() -> None:
        a, b = Service("a"), Service("b")
        gate = Gate(100, a, b)
        turn = await loaded(gate, a)
        _, waits = gate.wait(b)
        await settle()
        waits.cancel()
        await asyncio.wait([waits])
        turn.close()
        await asyncio.sleep(0.35)
        assert (a.orders, b.orders) == (["load"], [])
        assert (b.waiting, b.running) == (0, 0)

    run(test)


def test_a_failed_load_fails_what_waits_with_the_reason_and_waits_before_the_next_try() -> None:
    async def test() -> None:
        a = Service("a")
        gate = Gate(100, a)
        tasks = [gate.wait(a)[1] for _ in range(3)]
        await settle(lambda: a.orders == ["load"])
        a.enter("failed", "the file is broken")
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, ModelLoadFailed)
            assert (result.status, result.code) == (503, "model_load_failed")
            assert "'a' can't be loaded: the file is broken" in result.message
            assert result.retry_after is not None
            assert 1 <= result.retry_after <= 5
        with pytest.raises(ModelLoadFailed):
            await gate.wait(a)[1]
        assert a.orders == ["load"]

    run(test)


def test_a_model_that_can_never_fit_fails_at_once() -> None:
    async def test() -> None:
        huge = Service("huge")
        with pytest.raises(ModelLoadFailed, match=r"'huge' takes 300 MB of memory, and .* may take 100 MB"):
            await Gate(100, huge).wait(huge)[1]
        assert huge.orders == []

    run(test)


def test_keep_alive_zero_unloads_after_the_reply() -> None:
    async def test() -> None:
        a = Service("a")
        gate = Gate(100, a)
        turn = await loaded(gate, a)
        gate.scheduler.keep_alive(cast(ModelService, a), 0.0)
        await settle()
        assert a.orders == ["load"]
        turn.close()
        await settle(lambda: a.orders == ["load", "unload"])

    run(test)


def test_an_order_to_unload_waits_for_running_requests() -> None:
    async def test() -> None:
        a = Service("a")
        gate = Gate(100, a)
        turn = await loaded(gate, a)
        gate.scheduler.unload(cast(ModelService, a))
        await settle()
        assert a.orders == ["load"]
        turn.close()
        await settle(lambda: a.orders == ["load", "unload"])

    run(test)


def test_an_idle_model_is_unloaded_at_a_tick() -> None:
    async def test() -> None:
        a, pinned = Service("a", idle_seconds=0.05), Service("pinned", idle_seconds=0.05, pinned=True)
        gate = Gate(200, a, pinned)
        for service in (a, pinned):
            (await loaded(gate, service)).close()
        assert 0.0 < gate.scheduler.expires_in(cast(ModelService, a)) <= 0.05
        gate.scheduler.tick()
        assert a.orders == ["load"]
        await asyncio.sleep(0.06)
        gate.scheduler.tick()
        assert (a.orders, pinned.orders) == (["load", "unload"], ["load"])

    run(test)


def test_places_are_shared_between_callers_while_another_model_waits() -> None:
    async def test() -> None:
        a, b = Service("a"), Service("b")
        gate = Gate(100, a, b)
        first = await loaded(gate, a)
        second = gate.turn(a, "many")
        assert second.try_begin()
        gate.wait(b)
        await settle(lambda: b.waiting == 1)
        await settle()
        many = [gate.wait(a, "many") for _ in range(3)]
        one = gate.wait(a, "one")
        await settle()
        assert not any(turn.begun for turn, _ in [*many, one]), "both places are taken"
        first.close()
        await settle(lambda: one[0].begun)
        assert not any(turn.begun for turn, _ in many), "its caller has a request that runs"
        for _, task in many:
            task.cancel()

    run(test)


def test_a_server_that_stops_ends_what_waits() -> None:
    async def test() -> None:
        a = Service("a")
        gate = Gate(100, a)
        _, waits = gate.wait(a)
        await settle(lambda: a.orders == ["load"])
        gate.scheduler.stop()
        with pytest.raises(ShuttingDown):
            await waits
        with pytest.raises(ShuttingDown):
            await gate.wait(a)[1]

    run(test)


def test_models_of_a_server_that_starts_count_their_memory() -> None:
    async def test() -> None:
        a, b = Service("a"), Service("b")
        a.phase = "starting"
        gate = Gate(100, a, b)
        gate.wait(b)
        await settle()
        await asyncio.sleep(0.05)
        assert b.orders == []
        a.enter("serving")
        await settle(lambda: a.orders == ["unload"])

    run(test)


def test_a_model_is_loaded_without_a_request_and_takes_its_turn() -> None:
    async def test() -> None:
        a, b = Service("a"), Service("b")
        gate = Gate(100, a, b)
        turn = await loaded(gate, a)
        await gate.scheduler.load(cast(ModelService, b))
        await settle()
        assert b.orders == []
        turn.close()
        await settle(lambda: a.orders == ["load", "unload"])
        a.enter("unloaded")
        await settle(lambda: b.orders == ["load"])
        b.enter("serving")
        await gate.scheduler.load(cast(ModelService, b))
        gate.scheduler.tick()
        assert b.orders == ["load"]

    run(test)


def test_a_turn_ends_though_its_model_was_removed_and_served_again() -> None:
    async def test() -> None:
        old, new = Service("a"), Service("a")
        gate = Gate(100, old)
        turn = await loaded(gate, old)
        gate.scheduler.remove(cast(ModelService, old))
        gate.scheduler.add(cast(ModelService, new))
        turn.close()
        (await loaded(gate, new)).close()
        assert (new.waiting, new.running) == (0, 0)

    run(test)


@pytest.mark.parametrize("comes_again", [False, True])
def test_requests_that_wait_for_a_model_fail_when_it_is_removed(comes_again: bool) -> None:
    async def test() -> None:
        a, b, new = Service("a"), Service("b"), Service("b")
        gate = Gate(100, a, b)
        await loaded(gate, a)
        _, waits = gate.wait(b)
        await settle(lambda: not waits.done())
        _, plans = gate.wait(b)  # Its plan is made on a thread, where the first one's isn't there.
        if comes_again:
            gate.scheduler.add(cast(ModelService, new))
        gate.scheduler.remove(cast(ModelService, b))
        for request in (waits, plans):
            with pytest.raises(ModelNotFound, match="'b' was deleted"):
                await request
        assert (b.waiting, b.running) == (0, 0)

    run(test)


def test_a_request_whose_plan_is_made_while_the_server_stops_is_refused() -> None:
    async def test() -> None:
        a = Service("a")
        gate = Gate(100, a)
        _, plans = gate.wait(a)
        await asyncio.sleep(0)  # It is on the thread.
        gate.scheduler.stop()
        with pytest.raises(ShuttingDown):
            await plans
        assert a.orders == []

    run(test)


def test_an_ordered_load_says_that_the_last_one_failed_a_moment_ago() -> None:
    async def test() -> None:
        a = Service("a")
        gate = Gate(100, a)
        await gate.scheduler.load(cast(ModelService, a))
        await settle(lambda: a.orders == ["load"])
        a.enter("failed", "the file is cut")
        with pytest.raises(ModelLoadFailed, match="the file is cut") as failed:
            await gate.scheduler.load(cast(ModelService, a))
        assert 1 <= (failed.value.retry_after or 0) <= 5

    run(test)
