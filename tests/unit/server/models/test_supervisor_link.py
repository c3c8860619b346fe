"""Orders go to the supervisor in their order, also when it doesn't read for a while; its reports come back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from tailrace.server.models.supervisor_link import SupervisorLink
from tailrace.serving.control import (
    FromServer,
    LoadModel,
    ModelReport,
    RemoveModel,
    ReportModels,
    ServeModel,
    UnloadModel,
    control_channel,
    receive_order,
    send,
)
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings


def run(scene: Callable[[SupervisorLink, socket.socket], Awaitable[None]]) -> None:
    async def inside() -> None:
        own, supervisor = control_channel()
        link = SupervisorLink(own)
        with own, supervisor:
            await asyncio.wait_for(scene(link, supervisor), 60)
            link.stop()

    asyncio.run(inside())


def received(end: socket.socket) -> list[FromServer]:
    """The orders that have come."""
    return list(iter(lambda: receive_order(end), None))


def spec(name: str) -> ModelSpec:
    return ModelSpec(name=name, path=None, settings=Settings())


def test_orders_and_reports() -> None:
    async def scene(link: SupervisorLink, supervisor: socket.socket) -> None:
        came: asyncio.Queue[ModelReport] = asyncio.Queue()
        link.on_report = came.put_nowait
        link.start()
        link.load(spec("a"))
        link.unload("b")
        link.serve(spec("c"))
        link.remove("b")
        orders = [ReportModels(), LoadModel(spec("a")), UnloadModel("b"), ServeModel(spec("c")), RemoveModel("b")]
        assert received(supervisor) == orders
        reports = [ModelReport(name=name, phase="serving", bytes=7) for name in ("a", "b")]
        for report in reports:
            send(supervisor, report)
        assert [await came.get(), await came.get()] == reports

    run(scene)


def test_what_is_loaded_is_known_when_all_is_reported() -> None:
    async def scene(link: SupervisorLink, supervisor: socket.socket) -> None:
        came: list[str] = []
        link.on_report = lambda report: came.append(report.name)
        link.on_all = lambda names: came.append(",".join(sorted(names)))
        link.start()
        waiting = asyncio.ensure_future(link.all_reported())
        send(supervisor, ModelReport(name="a", phase="serving"))
        while not came:
            await asyncio.sleep(0.001)
        assert not waiting.done()
        send(supervisor, ModelReport(name="b", phase="failed"))
        send(supervisor, ModelReport(name="", phase="unloaded"))
        await waiting
        assert came == ["a", "b", "a,b"]

    run(scene)


def test_orders_that_dont_fit_into_the_socket_wait_in_their_order() -> None:
    async def scene(link: SupervisorLink, supervisor: socket.socket) -> None:
        link.start()
        names = [str(number) for number in range(2000)]
        for name in names:
            link.load(spec(name))
        orders: list[FromServer] = []
        while len(orders) < len(names) + 1:
            orders += received(supervisor)
            await asyncio.sleep(0)
        assert [order.spec.name for order in orders if isinstance(order, LoadModel)] == names
        link.unload("last")
        assert received(supervisor) == [UnloadModel("last")]

    run(scene)


def test_an_order_that_is_too_long_fails_its_model_alone() -> None:
    async def scene(link: SupervisorLink, supervisor: socket.socket) -> None:
        came: asyncio.Queue[ModelReport] = asyncio.Queue()
        link.on_report = came.put_nowait
        link.start()
        link.load(ModelSpec(name="long", path=None, settings=Settings(system_prompt=300_000 * "x")))
        link.load(spec("a"))
        report = await came.get()
        assert (report.name, report.phase) == ("long", "failed")
        assert received(supervisor) == [ReportModels(), LoadModel(spec("a"))]

    run(scene)


def test_a_message_that_isnt_one_harms_nothing() -> None:
    async def scene(link: SupervisorLink, supervisor: socket.socket) -> None:
        came: asyncio.Queue[ModelReport] = asyncio.Queue()
        link.on_report = came.put_nowait
        link.start()
        supervisor.send(b"{}")
        await asyncio.sleep(0.01)
        send(supervisor, ModelReport(name="a", phase="failed", reason="r"))
        assert (await came.get()).reason == "r"

    run(scene)


def test_the_channels_end_is_no_busy_loop() -> None:
    async def scene(link: SupervisorLink, supervisor: socket.socket) -> None:
        link.start()
        supervisor.close()
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.01)
        assert not loop.remove_reader(link._end.fileno()), "nothing is read any more"
        link.unload("a")  # Harmless.

    run(scene)
