"""Which placement tune remembers, with processes whose speeds are given, and how serve's settings get it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tailrace.cli import tuned_settings
from tailrace.cli.tuned_settings import tuned
from tailrace.errors import ModelError
from tailrace.machine.topology import read_topology
from tailrace.machine.tuning_record import TuningRecord, TuningStore, usable_cpus
from tailrace.models.format_comparison import Speed
from tailrace.settings import Settings, resolve
from tailrace.tuning import placement_search
from tailrace.tuning.placement_neighbours import PlacedParts
from tailrace.tuning.placement_search import search_placements

_PLAN = PlacedParts(("local", "a:1"), (0, 1, 1), (0, 1, 1), 1, has_experts=False)
_SETTINGS = Settings(devices="local,a:1")


class ScriptedProbe:
    """Speeds by the output's device; placements with all layers on one device can't be loaded."""

    output_here_is = 1.0

    def __init__(self, _: Path, settings: Settings) -> None:
        self._rules: dict[str, Any] = settings.placement if isinstance(settings.placement, dict) else {}

    def __enter__(self) -> ScriptedProbe:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def placement(self) -> PlacedParts:
        return _PLAN

    def measure(self) -> Speed:
        if self._rules.get("layers", {}).get("0-1") == "local":
            raise ModelError("a device has too little memory")
        factor = self.output_here_is if self._rules.get("output") == "local" else 1.0
        return Speed(prefill=100 * factor, decode=10 * factor, decode_batched=40 * factor, streams=8)


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement_search, "Probe", ScriptedProbe)


def _search(monkeypatch: pytest.MonkeyPatch, factor: float) -> tuple[object, dict[str, Any]]:
    monkeypatch.setattr(ScriptedProbe, "output_here_is", factor)
    parts: list[float] = []
    rules, rows = search_placements(Path("m"), _SETTINGS, quick=False, report=lambda _, part: parts.append(part))
    assert parts == sorted(parts)
    assert parts[-1] < 1
    return rules, {row.value: row for row in rows}


def test_the_fastest_neighbour_is_remembered_as_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, rows = _search(monkeypatch, 1.2)
    assert rules == {"layers": {"0": "local", "1-2": "a:1"}, "output": "local"}
    (chosen,) = (row for row in rows.values() if row.chosen)
    assert chosen.value == "layers local 1 + a:1 2, output on local"
    assert chosen.ratio == pytest.approx(1.2)


def test_the_plan_stays_where_no_neighbour_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, rows = _search(monkeypatch, 1.01)
    assert rules is None
    assert rows[_PLAN.label].chosen
    assert rows[_PLAN.label].usual


def test_a_placement_that_has_no_memory_is_told_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = _search(monkeypatch, 1.0)
    refused = rows["layers local 2 + a:1 1"]
    assert (refused.figures, refused.why) == ((), "a device has too little memory")


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model's file with a record of a placement on ``local,a:1``."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(tuned_settings, "fingerprint", lambda _: "print")
    topology = read_topology()
    record = TuningRecord(
        model="m",
        machine="",
        usable=usable_cpus(topology),
        placements={"local,a:1": {"output": "local"}, "local,b:1": {}},
    )
    release = version("llama-cpp-python")
    TuningStore().save(record, "print", topology, release)
    (tmp_path / "none.toml").touch()
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("devices", "own", "expected"),
    [
        ("local, a:1", None, {"output": "local", "remembered": True}),
        ("a:1", None, None),
        ("local,b:1", None, None),
        (None, None, None),
        ("local,a:1", "own.toml", "own.toml"),
    ],
)
def test_serve_gets_it_for_the_same_devices(
    remembered: Path, devices: str | None, own: str | None, expected: object
) -> None:
    flags = {"model": "m", "devices": devices, "placement": own}
    found = tuned(resolve(flags, file=remembered.with_name("none.toml")), remembered)
    assert found.settings.placement == expected


def test_a_record_without_placements_is_still_read() -> None:
    old = msgspec.json.decode(b'{"model": "m", "machine": "", "usable": "0"}', type=TuningRecord)
    assert old.placements == {}
