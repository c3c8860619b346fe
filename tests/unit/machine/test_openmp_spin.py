"""The spin count that OpenMP reads when it is loaded."""

from __future__ import annotations

import os

import pytest

from tailrace.machine.openmp_spin import set_spin_count, spin_count


@pytest.mark.parametrize(("poll", "spins"), [(0, "0"), (1, "60000"), (50, "3000000")])
def test_a_poll_level_sets_the_spin_count(monkeypatch: pytest.MonkeyPatch, poll: int, spins: str) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # So that the value below is removed after the test.
    monkeypatch.delenv("GOMP_SPINCOUNT")
    set_spin_count(poll)
    assert os.environ["GOMP_SPINCOUNT"] == spins
    set_spin_count(7)
    assert os.environ["GOMP_SPINCOUNT"] == spins, "the first value stays"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_variables_of_the_user_stay(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "mine")
    set_spin_count(1)
    assert os.environ[name] == "mine"
    assert ("GOMP_SPINCOUNT" in os.environ) == (name == "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("policy", "count", "found"),
    [
        (None, None, 300_000),
        ("passive", None, 0),
        ("ACTIVE", None, 2**31 - 1),
        ("passive", "500", 500),
        (None, "infinite", 2**31 - 1),
        (None, "99999999999", 2**31 - 1),
    ],
)
def test_the_spin_count_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, policy: str | None, count: str | None, found: int
) -> None:
    for name, value in (("OMP_WAIT_POLICY", policy), ("GOMP_SPINCOUNT", count)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert spin_count() == found
