"""Orders in every phase of a model, over processes that start and end when the test says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import cast

import pytest

from tailrace.child import EXIT_CONFIGURATION
from tailrace.errors import ConfigurationError
from tailrace.machine.plan import MachinePlan, PoolPlan, ReplicaPlan
from tailrace.serving.control import LoadModel, ModelPhase, ModelReport, ReportModels, UnloadModel
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings
from tailrace.shared_memory.progress_page import ProgressPage
from tailrace.supervisor.child_process import ChildProcess
from tailrace.supervisor.engine_group import UNLOAD_GRACE_SECONDS, EngineGroup, Failure
from tailrace.supervisor.memory_use import measure
from tailrace.supervisor.model_groups import ModelGroups
from tailrace.supervisor.restarts import Restarts

POOL = PoolPlan(threads=1)
REPLICA = ReplicaPlan(node=None, decode=POOL, prefill=POOL)


class Engine:
    """An engine's process without one."""

    def __init__(self, number: int) -> None:
        self.name = f"engine {number}"
        self.number = number
        self.restarts = Restarts(10)
        self.start_at: float | None = None
        self.started = 0.0
        self.page: ProgressPage | None = None
        self.pid: int | None = os.getpid()
        self.is_running = self.serves = self.was_ready = self.waits_for_worker = False
        self.sent: list[int] = []
        self.message = "exit status 1"

    def start(self) -> None:
        self.is_running = True

    def serve(self) -> None:
        self.serves = self.was_ready = True

    def die(self) -> None:
        self.is_running = self.serves = False

    def send(self, number: int) -> None:
        self.sent.append(number)

    def forget(self) -> None:
        self.serves = False

    def has_aborted(self, status: int) -> bool:
        return False

    def death_reason(self, status: int) -> str:
        return self.message


class Models:
    """Groups of engines without processes, and the reports that they cause."""

    def __init__(self) -> None:
        self.replicas = 1
        self.engines: dict[str, list[Engine]] = {}
        self.reports: list[ModelReport] = []
        self.refusal: str | None = None
        self.groups = ModelGroups(self._make, self._start, lambda name: self.reports.append(self.groups.report(name)))

    def _make(self, spec: ModelSpec) -> EngineGroup:
        if self.refusal is not None:
            raise ConfigurationError(self.refusal)
        engines = [Engine(number) for number in range(self.replicas)]
        self.engines[spec.name] = engines
        plan = MachinePlan(replicas=(REPLICA,) * self.replicas)
        return EngineGroup(spec, plan, tuple(cast("list[ChildProcess]", engines)))

    def _start(self, group: EngineGroup) -> None:
        for engine in self.engines[group.name]:
            engine.start()

    def group(self, name: str) -> EngineGroup:
        return next(group for group in self.groups if group.name == name)

    def load(self, name: str, ctx: int = 0) -> None:
        self.groups.obey(LoadModel(ModelSpec(name=name, path=None, settings=Settings(ctx=ctx))))

    def unload(self, name: str) -> None:
        self.groups.obey(UnloadModel(name))

    def end(self, name: str) -> None:
        """All its processes end, as they were told."""
        group = self.group(name)
        for engine in self.engines[name]:
            engine.die()
            self.groups.on_end(group)

    def serve(self, name: str) -> None:
        for engine in self.engines[name]:
            engine.serve()
        self.groups.look(0.0)

    @property
    def phases(self) -> list[tuple[str, ModelPhase]]:
        """Names and phases of the reports since the last call."""
        found = [(report.name, report.phase) for report in self.reports]
        self.reports.clear()
        return found


@pytest.fixture
def models() -> Models:
    return Models()


def test_a_model_is_loaded_served_and_unloaded(models: Models) -> None:
    models.load("a")
    models.serve("a")
    models.unload("a")
    assert models.phases == [("a", "starting"), ("a", "serving"), ("a", "stopping")]
    assert models.engines["a"][0].sent == [signal.SIGTERM, signal.SIGCONT]
    models.end("a")
    assert models.phases == [("a", "unloaded")]
    assert list(models.groups) == []


def test_a_model_that_waits_for_a_worker_says_so(models: Models) -> None:
    models.load("a")
    models.engines["a"][0].waits_for_worker = True
    models.groups.look(0.0)
    assert [report.reason for report in models.reports] == ["", "the engine waits for a worker: see the log"]
    models.engines["a"][0].waits_for_worker = False
    models.serve("a")
    assert models.reports[-1].reason == ""


def test_an_order_to_load_what_is_there_reports_it_again(models: Models) -> None:
    models.load("a")
    first = models.engines["a"]
    models.load("a")
    models.serve("a")
    models.load("a")
    assert models.phases == [("a", "starting"), ("a", "starting"), ("a", "serving"), ("a", "serving")]
    assert models.engines["a"] is first


def test_a_model_that_stops_is_started_after_its_end(models: Models) -> None:
    models.load("a")
    models.unload("a")
    first = models.engines["a"]
    models.load("a", ctx=512)
    assert models.engines["a"] is first, "two would take the memory of two"
    models.end("a")
    assert models.engines["a"] is not first
    assert models.group("a").spec.settings.ctx == 512
    assert models.phases == [("a", "starting"), ("a", "stopping"), ("a", "stopping"), ("a", "starting")]


def test_the_last_of_many_orders_counts(models: Models) -> None:
    models.load("a")
    for _ in range(5):
        models.unload("a")
        models.load("a")
    models.unload("a")
    models.end("a")
    assert list(models.groups) == []
    assert models.phases[-1] == ("a", "unloaded")


def test_a_failed_model_stays_so_until_it_is_ordered_again(models: Models) -> None:
    models.load("a")
    models.engines["a"][0].die()
    models.groups.fail(models.group("a"), "not a GGUF file")
    assert models.reports[-1].reason == "not a GGUF file"
    models.groups.look(1e9)
    models.groups.obey(ReportModels())
    assert models.phases[-2:] == [("a", "failed"), ("", "unloaded")], "the empty name is the end"
    assert models.engines["a"][0].start_at is None
    models.load("a")
    assert models.phases == [("a", "starting")]
    assert models.engines["a"][0].restarts.unready == 0


def test_a_failed_model_of_which_a_replica_runs_starts_after_its_end(models: Models) -> None:
    models.replicas = 2
    models.load("a")
    first, other = models.engines["a"]
    first.die()
    models.groups.fail(models.group("a"), "no memory")
    assert signal.SIGTERM in other.sent
    models.load("a")
    assert models.phases == [("a", "starting"), ("a", "failed"), ("a", "stopping")]
    other.die()
    models.groups.on_end(models.group("a"))
    assert models.phases == [("a", "starting")]


def test_to_unload_a_failed_model_forgets_its_reason(models: Models) -> None:
    models.load("a")
    models.engines["a"][0].die()
    models.groups.fail(models.group("a"), "not a GGUF file")
    models.unload("a")
    assert models.reports[-1] == ModelReport(name="a", phase="unloaded")


def test_a_model_that_does_not_fit_fails_without_a_process(models: Models) -> None:
    models.refusal = "the model doesn't fit into memory"
    models.load("a")
    assert models.reports[-1].phase == "failed"
    assert models.reports[-1].reason == models.refusal
    models.reports.clear()
    models.groups.obey(ReportModels())
    assert models.phases == [("a", "failed"), ("", "unloaded")]
    models.refusal = None
    models.load("a")
    assert models.phases == [("a", "starting")]


def test_to_unload_what_is_not_there_is_reported(models: Models) -> None:
    models.unload("a")
    assert models.phases == [("a", "unloaded")]


def test_a_model_serves_when_all_of_its_replicas_do(models: Models) -> None:
    models.replicas = 2
    models.load("a")
    first, second = models.engines["a"]
    first.serve()
    models.groups.look(0.0)
    assert models.phases == [("a", "starting")]
    second.serve()
    models.groups.look(0.0)
    assert models.phases == [("a", "serving")]
    assert (models.group("a").report.replicas, models.group("a").report.first_child) == (2, 0)
    first.die()
    models.groups.look(0.0)
    assert models.phases == [("a", "starting")]


def test_engines_that_do_not_end_are_killed(models: Models) -> None:
    models.load("a")
    models.unload("a")
    group, engine = models.group("a"), models.engines["a"][0]
    assert group.kill_at is not None
    models.groups.kill_late(group.kill_at - 0.1)
    assert signal.SIGKILL not in engine.sent
    models.groups.kill_late(group.kill_at + UNLOAD_GRACE_SECONDS)
    assert engine.sent[-1] == signal.SIGKILL
    models.end("a")
    assert models.phases[-1] == ("a", "unloaded")


def test_an_engine_that_says_that_it_can_t_work_is_a_failure_at_once(models: Models) -> None:
    models.load("a")
    group, engine = models.group("a"), models.engines["a"][0]
    engine.message = "exit status 78: no such layer"
    engine.die()
    assert group.on_death(group.engines[0], EXIT_CONFIGURATION) == Failure("no such layer", False, settings=True)


def test_an_engine_that_has_served_is_started_again(models: Models) -> None:
    models.load("a")
    models.serve("a")
    group = models.group("a")
    models.engines["a"][0].die()
    assert group.on_death(group.engines[0], -signal.SIGKILL) == 0.0


def test_memory_is_reported_when_the_model_serves_and_when_it_changes(models: Models) -> None:
    models.load("a")
    group, engine = models.group("a"), models.engines["a"][0]
    group.bytes = 1 << 40
    engine.page = ProgressPage()
    models.serve("a")
    measured = models.reports[-1].bytes
    assert 0 < measured < 1 << 40
    models.reports.clear()
    engine.page.growth = measured / 100
    models.groups.look(100.0)
    assert models.phases == [], "a hundredth isn't worth a report"
    engine.page.growth = measured
    models.groups.look(100.5)
    assert models.phases == [], "it isn't measured at every look"
    models.groups.look(200.0)
    assert models.phases == [("a", "serving")]
    assert group.bytes == pytest.approx(2 * measured, rel=0.2)


def test_memory_is_what_is_private_swapped_or_may_come_and_mapped_weights_once(tmp_path: Path) -> None:
    engines = []
    for pid in (1, 2):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(
            "Name:\tpython\nVmRSS:\t  900 kB\nRssAnon:\t  100 kB\nRssFile:\t  790 kB\nRssShmem:\t   10 kB\n"
            "VmSwap:\t    5 kB\n"
        )
        engine = Engine(pid)
        engine.pid, engine.page = pid, ProgressPage()
        engine.page.growth, engine.page.mapped = 1000, 50_000
        engine.serve()
        engines.append(engine)
    assert measure(cast("list[ChildProcess]", engines), tmp_path) == 2 * (115 * 1024 + 1000) + 50_000
    engines[0].serves = False
    assert measure(cast("list[ChildProcess]", engines), tmp_path) is None
    engines[0].serves = True
    (tmp_path / "1/status").unlink()
    assert measure(cast("list[ChildProcess]", engines), tmp_path) is None, "it has died, or there is no /proc"
