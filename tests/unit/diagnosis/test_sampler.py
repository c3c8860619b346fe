"""Samples of recorded /proc and /sys files."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnosed_server import changed
from recorded_machines import expand_text
from tailrace.diagnosis.machine_sample import CpuTime, OtherProcess, read_machine, shown_name
from tailrace.diagnosis.process_sample import LOADING, read_process
from tailrace.diagnosis.sampler import Sampler
from tailrace.diagnosis.server_sample import EngineSample, ServerFacts, ServerSample
from tailrace.machine.cgroup import Throttling
from tailrace.observe.process_stats import split_stat


def stat(
    pid: int, name: str, state: str, parent: int, ticks: int, *, cpu: int = 0, faults: int = 0, ended: int = 0
) -> str:
    """A ``stat`` file: ``ticks`` of CPU time, last on ``cpu``, and ``ended`` of children that have ended."""
    middle = (
        f"{parent} 1 1 0 -1 0 5 0 {faults} 0 {ticks} 0 {ended} 0 20 0 1 0 5 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 17 {cpu} 0 0"
    )
    return f"{pid} ({name}) {state} {middle}"


STATS = {
    "100": stat(100, "tailrace", "S", 1, 15),
    "101": stat(101, "python (http)", "R", 100, 45, cpu=1, faults=2),
    "102": stat(102, "python", "S", 100, 220, faults=42),
    "110": stat(110, "python", "S", 102, 900),
    "200": stat(200, "python3", "R", 1, 100, cpu=1),
    "200/task/200": stat(200, "python3", "R", 1, 100, cpu=1),
}
#: A supervisor (100), its HTTP process (101), its engine (102) with a compute thread (103) and a named one (104), the
#: engine's sandbox (110), and another program (200).
SWITCHES = "voluntary_ctxt_switches: 7\\nnonvoluntary_ctxt_switches: 5"
PROCESSES = f"""
proc/stat = cpu  100 0 50 900 5 1 2 30 0 0\\ncpu0 60 10 20 450 5 1 2 20 0 0\\ncpu1 40 0 30 450 0 0 0 10 0 0\\nintr 1
proc/meminfo = MemTotal:  16000000 kB\\nMemAvailable:  8000000 kB
proc/vmstat = pswpin 7\\npswpout 9
proc/pressure/memory = some avg10=0.00 avg60=0.00 avg300=0.00 total=250000\\nfull avg10=0.00 total=1
proc/pressure/io = some avg10=0.00 avg60=0.00 avg300=0.00 total=500000
proc/100/status = Name:\\ttailrace\\nVmRSS:\\t  50000 kB
proc/101/status = Name:\\tpython (http)\\nVmRSS:\\t  60000 kB\\nVmSwap:\\t  128 kB
proc/101/limits = Limit   Soft Limit\\nMax open files            1024                 4096                 files
proc/101/fd/0 = x
proc/101/fd/1 = x
proc/102/status = Name:\\tpython\\nVmRSS:\\t  500000 kB\\nVmSwap:\\t  64 kB
proc/102/cgroup = 1:cpu:/box
proc/102/task/102/schedstat = 1500000000 250000000 12
proc/102/task/102/status = Name:\\tpython\\nCpus_allowed_list:\\t0\\n{SWITCHES}
proc/102/task/103/schedstat = 700000000 50000000 12
proc/102/task/103/status = Name:\\tpython\\nCpus_allowed_list:\\t0-1
proc/102/task/104/schedstat = 1000 1000 1
proc/102/task/104/status = Name:\\tintake\\nCpus_allowed_list:\\t0-1
proc/102/numa_maps = 7f0 default anon=10 N0=10 kernelpagesize_kB=4\\n7f1 default file=/w N1=5 kernelpagesize_kB=4
proc/self/mountinfo = 32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
sys/fs/cgroup/cpu/cpu.cfs_quota_us = -1
sys/fs/cgroup/cpu/cpu.stat = nr_periods 0\\nnr_throttled 0\\nthrottled_time 0
sys/fs/cgroup/cpu/box/cpu.cfs_quota_us = 150000
sys/fs/cgroup/cpu/box/cpu.cfs_period_us = 100000
sys/fs/cgroup/cpu/box/cpu.stat = nr_periods 40\\nnr_throttled 30\\nthrottled_time 1200000000
sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count = 3
sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count = 4
sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq = 2000000
sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq = 4000000
"""

SERVER = ServerSample(engines=(EngineSample(replica=0, pid=102, silent=0.1, reported_at=0.0),))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    expand_text(PROCESSES + "\n".join(f"proc/{path}/stat = {text}" for path, text in STATS.items()), tmp_path)
    (tmp_path / "proc/200/cmdline").write_text("/usr/bin/python3\0/opt/etl/nightly.py\0--password\0secret\0")
    return tmp_path


def test_a_process_is_read_with_its_threads(root: Path) -> None:
    engine = read_process(102, "engine", root)
    assert engine is not None
    assert (engine.state, engine.cpu, engine.major_faults) == ("S", 2.2, 42)
    assert (engine.memory, engine.swapped) == (512_000_000, 65_536)
    assert list(engine.compute) == [102, 103], "a thread with a name of its own doesn't compute"
    main = engine.threads[102]
    assert (main.run, main.wait, main.involuntary) == (1.5, 0.25, 5)
    assert engine.allowed == {0, 1}
    http = read_process(101, "http", root, files=True)
    assert http is not None
    assert (http.files, http.max_files) == (2, 1024)
    assert read_process(999, "engine", root) is None


def test_a_name_with_brackets_and_spaces_is_no_field() -> None:
    stat = split_stat("7 (a) b (c) d) R 1 " + " ".join(map(str, range(2, 37))))
    assert stat is not None
    assert (stat.name, stat.state, stat.parent) == ("a) b (c) d", "R", 1)
    assert split_stat("") is None
    assert split_stat("7 (cut") is None


def test_the_machines_totals_are_read(root: Path) -> None:
    found = read_machine([0, 1], 102, root)
    assert found.cpus == {0: CpuTime(0.93, 0.2), 1: CpuTime(0.7, 0.1)}
    assert (found.swapped_in, found.available) == (7, 8_192_000_000)
    assert (found.memory_stall, found.disk_stall) == (0.25, 0.5)
    assert found.thermal == {0: 7}
    assert found.clock_caps == {0: 0.5}
    (box,) = found.throttling
    assert box == Throttling(str(root / "sys/fs/cgroup/cpu/box"), 1.5, 40, 30, 1.2)


def test_version_2_counts_microseconds(root: Path) -> None:
    mount = "33 1 0:9 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    expand_text(
        f"proc/self/mountinfo = {mount}\nproc/102/cgroup = 0::/pod\nsys/fs/cgroup/pod/cpu.max = 50000 100000\n"
        "sys/fs/cgroup/pod/cpu.stat = usage_usec 9\\nnr_periods 5\\nnr_throttled 4\\nthrottled_usec 300000",
        root,
    )
    (pod,) = read_machine([0], 102, root).throttling
    assert (pod.quota, pod.periods, pod.throttled, pod.seconds) == (0.5, 5, 4, 0.3)


def test_a_system_without_proc_has_an_empty_sample(tmp_path: Path) -> None:
    sample = Sampler(100, 101, tmp_path).take(SERVER, ServerFacts(), 1.0)
    assert sample.processes == {}
    assert sample.machine.cpus == {}


def test_processes_have_roles_and_engines_of_several_nodes_have_their_memory(root: Path) -> None:
    sampler = Sampler(100, 101, root)
    sample = sampler.take(SERVER, ServerFacts(node_of={0: 0, 1: 1}), 1.0)
    assert {process.role for process in sample.processes.values()} == {"http", "supervisor", "engine"}
    assert sample.processes[102].nodes == {0: 40_960, 1: 20_480}
    (root / "proc/102/numa_maps").write_text("")
    again = sampler.take(SERVER, ServerFacts(node_of={0: 0, 1: 1}), 2.0)
    assert again.processes[102].nodes == {0: 40_960, 1: 20_480}, "the kernel needs long for it: it is read rarely"
    several = sampler.take(SERVER, ServerFacts(replicas=2), 1.0)
    assert several.processes[102].role == "engine 0"


def test_an_engine_that_is_not_connected_is_read_as_well(root: Path) -> None:
    expand_text("proc/100/task/100/children = 101 102", root)
    found = Sampler(100, 101, root).take(ServerSample(), ServerFacts(), 1.0).processes
    assert {pid: process.role for pid, process in found.items()} == {101: "http", 100: "supervisor", 102: LOADING}


def test_other_processes_are_named_without_their_arguments(root: Path) -> None:
    sampler = Sampler(100, 101, root)
    assert sampler.name_others(frozenset({1}), 1.0) is None, "there is nothing to compare with"
    (root / "proc/110/stat").write_text(stat(110, "python", "S", 102, 990))
    (root / "proc/200/stat").write_text(stat(200, "python3", "R", 1, 150, cpu=1))
    assert sampler.name_others(frozenset({1}), 1.1) is None, "too soon"
    assert sampler.name_others(frozenset({1}), 2.0) == (OtherProcess(200, "python3 nightly.py", 0.5),)
    assert sampler.name_others(frozenset({0}), 3.0) == (), "it ran on another CPU"
    assert sampler.name_others(frozenset({1}), 99.0) is None, "the last look is too old"


def test_programs_that_live_shortly_are_their_parents_or_their_own(root: Path) -> None:
    sampler = Sampler(100, 101, root)
    sampler.name_others(frozenset({1}), 1.0)
    (root / "proc/200/stat").write_text(stat(200, "make", "S", 1, 100, cpu=1, ended=60))
    expand_text(
        f"proc/201/stat = {stat(201, 'cc1', 'R', 200, 30, cpu=1)}\n"
        f"proc/201/task/201/stat = {stat(201, 'cc1', 'R', 200, 30, cpu=1)}",
        root,
    )
    found = sampler.name_others(frozenset({1}), 2.0)
    assert found is not None
    assert [(each.name, round(each.cpu, 2)) for each in found] == [("make", 0.6), ("cc1", 0.3)]
    (root / "proc/201/stat").unlink()
    (root / "proc/200/stat").write_text(stat(200, "make", "S", 1, 100, cpu=1, ended=95))
    found = sampler.name_others(frozenset({1}), 3.0)
    assert found is not None
    assert [(each.name, round(each.cpu, 2)) for each in found] == [("make", 0.05)], "a child's earlier time isn't new"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("python3", "-m", "http.server", "--key", "s"), "python3 -m http.server"),
        (("python3", "-P", "-m", "http.server", "--key", "s"), "python3 -m http.server"),
        (("python3", "-c", "secret"), "python3"),
        (("python3",), "python3"),
        (("node", "/srv/app.js"), "node app.js"),
        (("postgres", "secret"), "postgres"),
    ],
)
def test_an_interpreters_name_has_its_program(command: tuple[str, ...], name: str, tmp_path: Path) -> None:
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/cmdline").write_text("\0".join((*command, "")))
    assert shown_name(OtherProcess(5, command[0], 0.0), tmp_path) == name


def test_names_are_wanted_when_others_harm_the_engine() -> None:
    sampler = Sampler(1, 10)
    assert sampler.wants_names(*changed(foreign=0.5, wait=0.2))
    assert not sampler.wants_names(*changed(foreign=0.5, wait=0.01))
    assert not sampler.wants_names(*changed(foreign=0.05, wait=0.2))
