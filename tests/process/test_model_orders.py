"""The supervisor's engines of several models, by orders as an HTTP process sends them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ordering_server import OrderingServer, ordering, specs
from servers import alive, wait_for
from tailrace.models.model_reference import locate_model
from tailrace.serving.control import LoadModel, ReportModels, UnloadModel
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import STARTER_MODEL, Settings


@pytest.fixture(scope="module")
def server() -> Iterator[OrderingServer]:
    environment = {
        "TAILRACE_FAKE_LOAD_SECONDS": "slow=600",
        "TAILRACE_FAKE_LOAD_FAILS": "broken=tensor 7 is missing",
    }
    with ordering("a", "b", "slow", "broken", environment=environment) as server:
        yield server


def load(server: OrderingServer, name: str) -> int:
    """Load the model; its engine's process."""
    server.send(LoadModel(specs(name)[0]))
    server.expect("model", name=name, phase="starting")
    pid: int = server.expect("hello", name=name)["pid"]
    server.expect("model", name=name, phase="serving")
    return pid


def unload(server: OrderingServer, name: str) -> None:
    """Unload the model. An engine may end before the supervisor has said that it stops it."""
    server.send(UnloadModel(name))
    server.expect("model", name=name, phase="unloaded")
    server.news = [news for news in server.news if (news.get("name"), news.get("phase")) != (name, "stopping")]


def test_a_model_is_loaded_and_unloaded_beside_another_one(server: OrderingServer) -> None:
    first, second = load(server, "a"), load(server, "b")
    unload(server, "a")
    assert not alive(first)
    assert alive(second)
    again = load(server, "a")
    assert again != first
    unload(server, "a")
    unload(server, "b")


def test_a_load_that_is_taken_back_ends_at_once(server: OrderingServer) -> None:
    server.send(LoadModel(specs("slow")[0]))
    server.expect("model", name="slow", phase="starting")
    unload(server, "slow")


def test_a_model_that_can_t_load_fails_alone_and_with_its_reason(server: OrderingServer) -> None:
    other = load(server, "a")
    for _ in range(2):
        server.send(LoadModel(specs("broken")[0]))
        server.expect("model", name="broken", phase="starting")
        assert server.expect("model", name="broken", phase="failed")["reason"] == "tensor 7 is missing"
    assert alive(other)
    server.send(UnloadModel("broken"))
    server.expect("model", name="broken", phase="unloaded")
    unload(server, "a")


def test_an_engine_that_dies_is_started_again_and_the_other_model_runs_on(server: OrderingServer) -> None:
    first, second = load(server, "a"), load(server, "b")
    os.kill(first, signal.SIGKILL)
    assert server.expect("hello", name="a")["pid"] != first
    assert alive(second)
    unload(server, "a")
    unload(server, "b")


def test_a_process_waits_for_the_next_model_and_becomes_its_engine(server: OrderingServer) -> None:
    wait_for("a process that waits", lambda: server.standby is not None)
    waiting = server.standby
    assert load(server, "a") == waiting
    unload(server, "a")


def test_a_stopped_engine_ends_when_its_model_is_unloaded(server: OrderingServer) -> None:
    engine = load(server, "a")
    os.kill(engine, signal.SIGSTOP)
    server.send(UnloadModel("a"))
    server.expect("model", name="a", phase="stopping")
    server.expect("model", name="a", phase="unloaded")


def test_a_wrong_order_changes_nothing(server: OrderingServer) -> None:
    engine = load(server, "a")
    server.send_raw(b'{"type": "dance"}')
    server.send(ReportModels())
    server.expect("model", name="a", phase="serving")
    assert alive(engine)
    unload(server, "a")


def test_loaded_models_outlive_the_http_process() -> None:
    """One that has died, and one that reads nothing more; the next one hears of all."""
    with ordering("a", "b", settings=Settings(backend="fake", port=0, drain_seconds=0, hang_seconds=1)) as server:
        engines = {name: load(server, name) for name in ("a", "b")}
        server.send_raw(b"hang")
        server.meet()
        for name, pid in engines.items():
            assert server.expect("hello", name=name)["pid"] == pid
        server.send(ReportModels())
        for name in engines:
            server.expect("model", name=name, phase="serving")
        assert "hangs; it is replaced" in server.log
        assert server.stop() == 0
        wait_for("the engines to end", lambda: not any(alive(pid) for pid in engines.values()))


def test_real_models_share_the_memory_and_report_what_they_take(tmp_path: Path) -> None:
    path = locate_model(STARTER_MODEL).path
    link = tmp_path / "second.gguf"
    link.symlink_to(path)
    settings = Settings(port=0, drain_seconds=0, models_mb=1600, keep_mb=10)
    models = tuple(ModelSpec(name=file.stem, path=str(file), settings=settings) for file in (path, link))
    server = OrderingServer(models, settings)
    try:
        taken = {}
        for spec in models:
            server.send(LoadModel(spec))
            planned = server.expect("model", name=spec.name, phase="starting")["bytes"]
            taken[spec.name] = server.expect("model", name=spec.name, phase="serving")["bytes"]
            # All of its weights, and less than the whole machine's share of the KV cache would be.
            assert path.stat().st_size < taken[spec.name] < 2 * planned < 1_600_000_000
    finally:
        server.close()
