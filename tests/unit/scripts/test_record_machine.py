"""A recorded machine, recorded again and expanded, is read as the same machine."""

from __future__ import annotations

from pathlib import Path

import pytest

import record_machine
from recorded_machines import FOLDER, expand, expand_text
from tailrace.machine.isa import read_isa
from tailrace.machine.topology import read_topology

EVERYTHING = frozenset(range(64))


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.txt")))
def test_recording_keeps_every_file_that_is_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = expand(name, tmp_path / "1")
    (first / "proc/self").mkdir(parents=True, exist_ok=True)
    for file in ("proc/cpuinfo", "proc/self/mountinfo", "proc/self/cgroup"):
        (first / file).touch()
    record_machine.main(first)
    second = expand_text(capsys.readouterr().out, tmp_path / "2")
    assert read_topology(second, EVERYTHING) == read_topology(first, EVERYTHING)
    assert read_isa(second) == read_isa(first)


def test_this_machine_can_be_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_machine.main()
    recorded = read_topology(expand_text(capsys.readouterr().out, tmp_path), EVERYTHING)
    now = read_topology(affinity=EVERYTHING)
    assert recorded.cores == now.cores
    assert recorded.caches == now.caches
    assert (recorded.limits.cpus, recorded.limits.quota) == (now.limits.cpus, now.limits.quota)
