"""What the engine does when the kernel doesn't do as planned."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tailrace.child import Start
from tailrace.engine import service
from tailrace.errors import ConfigurationError
from tailrace.machine.plan import MachinePlan, PoolPlan, ReplicaPlan
from tailrace.settings import Settings


def start(settings: Settings, cpus: tuple[int, ...]) -> Start:
    """Orders for an engine that belongs on ``cpus``; nobody has bound this process to them."""
    pool = PoolPlan(threads=1, cpus=cpus)
    plan = MachinePlan((ReplicaPlan(node=None, decode=pool, prefill=pool),))
    return Start(settings=settings, plan=plan, parent=1, model_name="m", model_path=None, socket_path="s")


def test_what_is_set_and_not_in_force_ends_the_engine() -> None:
    with pytest.raises(ConfigurationError, match=r"isn't in force: .* planned are 4000"):
        service._check(start(Settings(cpus="4000"), (4000,)))


def test_what_is_planned_and_not_in_force_is_a_warning() -> None:
    with capture_logs() as logs:
        service._check(start(Settings(), (4000,)))
    assert [entry["log_level"] for entry in logs] == ["info", "warning"]
    assert "planned are 4000" in logs[1]["difference"]


def test_what_is_in_force_is_told() -> None:
    with capture_logs() as logs:
        service._check(start(Settings(), ()))
    (entry,) = logs
    assert entry["event"] == "in force"
    assert entry["memory"].startswith("node ")
