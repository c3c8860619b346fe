"""A model's phases, by the supervisor's reports and its engines' connections; and what depends on the model."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tailrace import ipc
from tailrace.engine.backends.fake import FakeBackend
from tailrace.errors import EngineUnavailable, ModelLoadFailed
from tailrace.models.derived_models import DerivedModel, DerivedModels
from tailrace.observe.metrics import Metrics
from tailrace.protocol import PROTOCOL_VERSION, Hello
from tailrace.server.models.engine_hub import EngineHub
from tailrace.server.models.model_directory import ModelDirectory
from tailrace.server.models.model_service import ModelService
from tailrace.server.served_model import ServedModel
from tailrace.serving.control import ModelPhase, ModelReport
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings

BACKEND = FakeBackend(ctx=100, parallel=4, kv_tokens=0, batch=16)


class Orders:
    """What would go to the supervisor."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def load(self, spec: ModelSpec) -> None:
        self.given.append(f"load {spec.name}")

    def unload(self, name: str) -> None:
        self.given.append(f"unload {name}")

    def serve(self, spec: ModelSpec) -> None:
        raise AssertionError("none comes")

    def remove(self, name: str) -> None:
        raise AssertionError("none goes")


class Scene:
    """A hub with the models a and b, and engines that a test connects."""

    def __init__(self, **settings: Any) -> None:
        self.orders = Orders()
        self.hub = EngineHub(silence_seconds=1.0)
        self.metrics = Metrics()
        spec = ModelSpec(name="a", path=None, settings=Settings(engine_wait_seconds=5.0, **settings))
        self.model = ModelService(spec, self.hub, self.metrics, self.orders)
        self.other = ModelService(msgspec.structs.replace(spec, name="b"), self.hub, self.metrics, self.orders)
        self.phases: list[ModelPhase] = []
        self.model.on_change.append(lambda service: self.phases.append(service.phase))
        self._engines: list[socket.socket] = []
        self._hub_socket: socket.socket | None = None

    def reports(self, phase: ModelPhase, **fields: Any) -> None:
        self.model.on_report(ModelReport(name="a", phase=phase, **fields))

    async def connect(self, name: str = "a", **info: Any) -> socket.socket:
        """An engine that has said Hello."""
        if self._hub_socket is None:
            http_hub, self._hub_socket = ipc.connection_hub()
            await self.hub.start(http_hub)
        engine = ipc.offer_connection(self._hub_socket)
        facts = msgspec.structs.replace(BACKEND.info, **info)
        hello = Hello(PROTOCOL_VERSION, 1, 0, facts, BACKEND.vocabulary, name=name)
        engine.sendall(ipc.frame(hello))
        self._engines.append(engine)
        return engine

    async def close(self) -> None:
        await self.hub.stop()
        for engine in self._engines:
            engine.close()
        if self._hub_socket is not None:
            self._hub_socket.close()


def play(scene: Callable[[Scene], Awaitable[None]], **settings: Any) -> None:
    async def inside() -> None:
        stage = Scene(**settings)
        try:
            await asyncio.wait_for(scene(stage), 60)
        finally:
            await stage.close()

    asyncio.run(inside())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_load_and_an_unload() -> None:
    async def scene(stage: Scene) -> None:
        model = stage.model
        assert (model.phase, model.is_loaded, model.info) == ("unloaded", False, None)
        model.load()
        model.load()
        stage.reports("starting", replicas=1)
        assert stage.orders.given == ["load a"]
        await stage.connect()
        await until(lambda: model.is_loaded)
        stage.reports("serving", bytes=1234)
        assert model.figures.bytes == 1234
        assert (model.figures.loads, model.figures.load_seconds > 0) == (1, True)
        model.unload()
        model.unload()
        stage.reports("serving")  # Sent before the order has come.
        assert not model.is_loaded
        stage.reports("stopping")
        stage.reports("unloaded")
        assert stage.phases == ["starting", "serving", "stopping", "unloaded"]
        assert stage.orders.given == ["load a", "unload a"]
        assert (model.figures.unloads, model.figures.bytes) == (1, 0)
        assert model.info is not None, "what is known of it stays"

    play(scene)


def test_each_engine_is_its_models() -> None:
    async def scene(stage: Scene) -> None:
        stage.model.load()
        stage.other.load()
        await stage.connect("b")
        await until(lambda: stage.other.is_loaded)
        assert not stage.model.engine.is_connected
        stranger = await stage.connect("c")
        stranger.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(stranger, 1) == b"", "it is closed"
        await stage.connect("a")
        assert (await stage.model.engine.ready()).name == "a"
        assert (await stage.other.engine.ready()).name == "b"

    play(scene)


def test_requests_that_wait_for_a_model_fail_with_it() -> None:
    async def scene(stage: Scene) -> None:
        stage.model.load()
        waiting = asyncio.ensure_future(stage.model.engine.ready())
        await asyncio.sleep(0)
        stage.reports("failed", reason="not enough memory")
        with pytest.raises(ModelLoadFailed, match="'a' can't be loaded: not enough memory"):
            await waiting
        assert (stage.model.phase, stage.model.figures.failures) == ("failed", 1)
        stage.model.load()  # It is tried again.
        assert stage.orders.given == ["load a", "load a"]
        await stage.connect()
        assert (await stage.model.engine.ready()).name == "a"
        assert stage.model.reason == ""

    play(scene)


def test_the_reason_for_clients_has_no_folder() -> None:
    spec = ModelSpec(name="a", path="/home/me/models/a.gguf", settings=Settings())
    model = ModelService(spec, EngineHub(silence_seconds=1.0), Metrics(), Orders())
    model.fail("/home/me/models/a.gguf isn't a whole GGUF file. Fetch it again")
    assert str(model.load_error()) == "The model 'a' can't be loaded: a.gguf isn't a whole GGUF file. Fetch it again"


def test_a_model_that_this_process_cant_use_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Scene) -> None:
        from tailrace.errors import ModelError

        def refuse(self: ServedModel, hello: Hello) -> None:
            raise ModelError("its vocabulary is broken")

        monkeypatch.setattr(ServedModel, "__init__", refuse)
        stage.model.load()
        stage.reports("starting")
        await stage.connect()
        await until(lambda: stage.orders.given == ["load a", "unload a"])
        for phase in ("serving", "stopping"):
            stage.reports(phase)
            assert stage.model.phase == "stopping", "its engine has memory"
        stage.reports("unloaded")
        assert (stage.model.phase, stage.model.reason) == ("failed", "its vocabulary is broken")
        assert (stage.model.figures.failures, stage.model.figures.unloads) == (1, 0)

    play(scene)


def test_an_engine_that_dies_is_waited_for() -> None:
    async def scene(stage: Scene) -> None:
        stage.model.load()
        engine = await stage.connect()
        await until(lambda: stage.model.is_loaded)
        engine.close()
        await until(lambda: stage.model.phase == "starting")
        await stage.connect()
        await until(lambda: stage.model.is_loaded)
        assert stage.model.figures.loads == 1, "a restart is no load"

    play(scene)


def test_a_model_that_was_to_start_with_the_server_and_isnt_there_is_loaded_on_demand(tmp_path: Path) -> None:
    async def scene(stage: Scene) -> None:
        spec = msgspec.structs.replace(stage.model.spec, at_start=True)
        services = [
            ModelService(msgspec.structs.replace(spec, name=name), stage.hub, stage.metrics, orders)
            for name, orders in (("there", stage.orders), ("absent", stage.orders), ("only", None))
        ]
        directory = ModelDirectory(services, DerivedModels(tmp_path), tmp_path)
        directory.on_report(ModelReport(name="there", phase="starting"))
        directory.on_all_reported(frozenset({"there"}))
        assert [service.phase for service in services] == ["starting", "unloaded", "starting"]
        services[1].load()
        directory.on_all_reported(frozenset({"there"}))
        assert services[1].phase == "starting", "it was ordered meanwhile"

    play(scene)


def test_a_new_http_process_takes_up_what_runs() -> None:
    async def scene(stage: Scene) -> None:
        stage.reports("serving", bytes=5, replicas=1, first_child=3)
        assert (stage.model.phase, stage.model.is_loaded) == ("starting", False), "its engine reconnects"
        await stage.connect()
        await until(lambda: stage.model.is_loaded)
        assert stage.orders.given == []

    play(scene)


# What depends on the model


def test_a_reload_of_the_same_file_makes_nothing_again() -> None:
    async def scene(stage: Scene) -> None:
        stage.model.load()
        engine = await stage.connect(kv_cells=100)
        first = await stage.model.engine.ready()
        entry = DerivedModel(base="a", system="Be brief.")
        derived = await stage.model.with_overrides(first, entry)
        assert await stage.model.with_overrides(first, entry) is derived
        engine.close()
        await until(lambda: not stage.model.engine.is_connected)
        engine = await stage.connect(kv_cells=100)
        assert await stage.model.engine.ready() is first
        engine.close()
        await until(lambda: not stage.model.engine.is_connected)
        await stage.connect(kv_cells=50)
        second = await stage.model.engine.ready()
        assert second.info.kv_cells == 50
        assert second.shares_format(first)
        again = await stage.model.with_overrides(second, entry)
        assert again.info.kv_cells == 50
        assert again.template is derived.template

    play(scene)


def test_another_template_is_another_model() -> None:
    async def scene(stage: Scene) -> None:
        engine = await stage.connect()
        first = await stage.model.engine.ready()
        engine.close()
        await until(lambda: not stage.model.engine.is_connected)
        await stage.connect(chat_template="{{ messages[0].content }}")
        second = await stage.model.engine.ready()
        assert not second.shares_format(first)

    play(scene)


def test_the_settings_defaults_are_below_a_derived_models() -> None:
    async def scene(stage: Scene) -> None:
        await stage.connect()
        model = await stage.model.engine.ready()
        plain = await stage.model.with_overrides(model, None)
        assert plain.overrides is not None
        assert plain.overrides.parameters == {"temperature": 0.5, "top_k": 3}
        assert plain.overrides.begin([{"role": "user", "content": "Hi"}])[0]["content"] == "Be kind."
        entry = DerivedModel(base="a", parameters={"top_k": 9}, system="")
        derived = await stage.model.with_overrides(model, entry)
        assert derived.overrides is not None
        assert derived.overrides.parameters == {"temperature": 0.5, "top_k": 9}
        assert derived.overrides.begin([])[0]["content"] == "Be kind."
        assert await stage.model.with_overrides(model, entry) is derived
        own = await stage.model.with_overrides(model, DerivedModel(base="a", system="Be short."))
        assert own.overrides is not None
        assert own.overrides.begin([])[0]["content"] == "Be short."

    play(scene, system_prompt="Be kind.", sampling={"temperature": 0.5, "top_k": 3})


def test_without_defaults_the_model_is_as_it_is() -> None:
    async def scene(stage: Scene) -> None:
        await stage.connect()
        model = await stage.model.engine.ready()
        assert await stage.model.with_overrides(model, None) is model

    play(scene)


def test_an_engine_that_doesnt_come_in_time() -> None:
    async def scene(stage: Scene) -> None:
        stage.model.engine._wait_seconds = 0.01
        with pytest.raises(EngineUnavailable):
            await stage.model.engine.ready()

    play(scene)


def test_the_memory_of_models_that_were_unloaded_long_ago_is_freed(tmp_path: Path) -> None:
    async def scene(stage: Scene) -> None:
        spec = stage.model.spec
        services = [
            ModelService(msgspec.structs.replace(spec, name=f"m{n}"), stage.hub, stage.metrics, stage.orders)
            for n in range(6)
        ]
        ModelDirectory(services, DerivedModels(tmp_path), tmp_path)
        for number, service in enumerate(services):
            service.load()
            engine = await stage.connect(service.name)
            await until(lambda service=service: service.is_loaded)  # type: ignore[misc]  # of this turn
            service.last_used = float(number)
            service.unload()
            engine.close()
            await until(lambda service=service: not service.engine.is_connected)  # type: ignore[misc]
            service.on_report(ModelReport(name=service.name, phase="unloaded"))
        assert [service.engine.model is not None for service in services] == [False, False, True, True, True, True]
        assert all(service.info is not None for service in services)

    play(scene)
