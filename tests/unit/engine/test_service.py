"""What the engine does when the kernel doesn't place it as planned, and which exit status says what."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tailrace.child import EXIT_CONFIGURATION, Start
from tailrace.engine import process, service
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.plan import MachinePlan, PoolPlan, ReplicaPlan
from tailrace.settings import Settings
from tailrace.shared_memory.progress_page import ProgressPage


def start(settings: Settings, cpus: tuple[int, ...]) -> Start:
    """Orders for an engine that belongs on ``cpus``; this process isn't bound to them."""
    pool = PoolPlan(threads=1, cpus=cpus)
    plan = MachinePlan((ReplicaPlan(node=None, decode=pool, prefill=pool),))
    return Start(settings=settings, plan=plan, parent=1, model_name="m", model_path=None, hub_fd=-1, progress_fd=-1)


def test_a_placement_that_the_settings_require_and_that_is_not_applied_ends_the_engine() -> None:
    with pytest.raises(ConfigurationError, match=r"aren't applied: .* planned are 4000"):
        service.check_placement(start(Settings(cpus="4000"), (4000,)))


def test_a_planned_placement_that_is_not_applied_is_a_warning() -> None:
    with capture_logs() as logs:
        service.check_placement(start(Settings(), (4000,)))
    assert [entry["log_level"] for entry in logs] == ["info", "warning"]
    assert "planned are 4000" in logs[1]["difference"]


def test_the_placement_is_logged() -> None:
    with capture_logs() as logs:
        service.check_placement(start(Settings(), ()))
    (entry,) = logs
    assert entry["event"] == "placement"
    assert entry["memory"].startswith("node ")


class _Broken:
    """A service whose model loads and then fails."""

    def __init__(self, start: Start, page: ProgressPage) -> None:
        pass

    def run(self) -> None:
        raise ModelError("a context can't be made")


class _Unloadable(_Broken):
    def __init__(self, start: Start, page: ProgressPage) -> None:
        raise ModelError("not a model")


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's entry with orders, and without its effects on this process."""
    monkeypatch.setattr(process, "read_start", lambda: start(Settings(), ()))
    monkeypatch.setattr(process, "ProgressPage", lambda fd: ProgressPage())
    for name in (
        "settle_signals",
        "unblock_signals",
        "raise_oom_score",
        "logs.configure",
        "signal.signal",
        "set_spin_count",
        "loader.choose",
        "_bind",
    ):
        monkeypatch.setattr(f"tailrace.engine.process.{name}", lambda *args, **kwargs: None)


@pytest.mark.usefixtures("orders")
def test_a_model_that_can_not_be_loaded_ends_the_engine_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "EngineService", _Unloadable)
    with pytest.raises(SystemExit) as caught:
        process.main()
    assert caught.value.code == EXIT_CONFIGURATION


@pytest.mark.usefixtures("orders")
def test_a_model_that_fails_while_it_serves_may_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "EngineService", _Broken)
    with pytest.raises(ModelError):
        process.main()
