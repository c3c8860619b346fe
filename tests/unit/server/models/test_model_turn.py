"""A request's turn of its model: counted while it waits and runs, whatever its end; and loading for a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tailrace.errors import ModelLoadFailed
from tailrace.observe.metrics import Metrics
from tailrace.server.models.engine_hub import EngineHub
from tailrace.server.models.model_scheduler import ModelScheduler
from tailrace.server.models.model_service import ModelService
from tailrace.server.models.model_turn import ModelTurn, OpenGate
from tailrace.serving import model_load
from tailrace.serving.control import ModelPhase, ModelReport
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings


class Orders:
    """The orders so far."""

    def __init__(self) -> None:
        self.loads = 0
        self.unloads = 0

    def load(self, spec: ModelSpec) -> None:
        self.loads += 1

    def unload(self, name: str) -> None:
        self.unloads += 1

    def serve(self, spec: ModelSpec) -> None:
        raise AssertionError("none comes")

    def remove(self, name: str) -> None:
        raise AssertionError("none goes")


def service(orders: Orders) -> ModelService:
    spec = ModelSpec(name="a", path=None, settings=Settings())
    return ModelService(spec, EngineHub(silence_seconds=1.0), Metrics(), orders)


def scheduler(model: ModelService) -> ModelScheduler:
    """A gate that has memory for the model."""
    gate = ModelScheduler(100, plan=lambda spec, budget: 100)
    gate.add(model)
    return gate


def waits(gate: ModelScheduler, model: ModelService) -> asyncio.Future[None]:
    """A request that can't begin at once."""
    turn = ModelTurn(gate, model, "caller")
    assert not turn.try_begin()
    return asyncio.ensure_future(turn.begin())


def counts(model: ModelService) -> tuple[int, int]:
    return model.waiting, model.running


def is_idle(model: ModelService) -> bool:
    return model.idle_since is not None


def reports(model: ModelService, phase: ModelPhase, reason: str = "") -> None:
    model.on_report(ModelReport(name="a", phase=phase, reason=reason))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def run(scene: Callable[[ModelService, Orders], Awaitable[None]]) -> None:
    async def inside() -> None:
        orders = Orders()
        await asyncio.wait_for(scene(service(orders), orders), 60)

    asyncio.run(inside())


def test_an_open_gate_lets_each_turn_begin() -> None:
    async def scene(model: ModelService, orders: Orders) -> None:
        turn = ModelTurn(OpenGate(), model, "caller")
        assert counts(model) == (1, 0)
        assert turn.try_begin()
        assert counts(model) == (0, 1)
        before = model.last_used
        assert not is_idle(model)
        turn.close()
        turn.close()
        assert counts(model) == (0, 0)
        assert is_idle(model)
        assert model.last_used >= before

    run(scene)


def test_the_first_request_has_the_model_loaded_and_the_others_wait_with_it() -> None:
    async def scene(model: ModelService, orders: Orders) -> None:
        gate = scheduler(model)
        turns = [ModelTurn(gate, model, "caller") for _ in range(3)]
        assert not any(turn.try_begin() for turn in turns)
        begun = [asyncio.ensure_future(turn.begin()) for turn in turns]
        await until(lambda: orders.loads == 1)
        assert counts(model) == (3, 0)
        model._enter("serving")
        await asyncio.gather(*begun)
        assert counts(model) == (0, 3)
        later = ModelTurn(gate, model, "caller")
        assert later.try_begin()
        for turn in (*turns, later):
            turn.close()
        assert counts(model) == (0, 0)

    run(scene)


def test_a_client_that_goes_gives_its_turn_back() -> None:
    async def scene(model: ModelService, orders: Orders) -> None:
        begun = waits(scheduler(model), model)
        await until(lambda: orders.loads == 1)
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        assert counts(model) == (0, 0)

    run(scene)


def test_a_model_that_cant_be_loaded_fails_who_waits_and_who_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_load, "_FIRST_RETRY", 0.2)

    async def scene(model: ModelService, orders: Orders) -> None:
        gate = scheduler(model)
        begun = waits(gate, model)
        await until(lambda: orders.loads == 1)
        reports(model, "failed", "the file is cut")
        with pytest.raises(ModelLoadFailed, match="the file is cut"):
            await begun
        with pytest.raises(ModelLoadFailed, match="the file is cut"):
            await waits(gate, model)
        assert (orders.loads, counts(model)) == (1, (0, 0))
        await asyncio.sleep(0.2)
        again = waits(gate, model)
        await until(lambda: orders.loads == 2)
        again.cancel()

    run(scene)


def test_a_model_that_is_being_unloaded_is_loaded_again_after_it() -> None:
    async def scene(model: ModelService, orders: Orders) -> None:
        gate = scheduler(model)
        model._enter("serving")
        model.unload()
        begun = waits(gate, model)
        await until(lambda: model.waiting == 1)
        assert (orders.loads, orders.unloads) == (0, 1)
        reports(model, "unloaded")
        await until(lambda: orders.loads == 1)
        model._enter("serving")
        await begun

    run(scene)
