"""The running servers, and whether the kernel's facts about them match their plans."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from recorded_machines import machine
from tailrace.cli.doctor_facts import check, diagnose
from tailrace.cli.doctor_report import _processes
from tailrace.cli.stats_client import read_stats
from tailrace.engine.kernels.build import KERNEL_TIERS
from tailrace.engine.native_libs import tiers
from tailrace.engine.native_libs.tiers import TIERS
from tailrace.engine.sampling.logits_ops.native.build import LOGITS_TIERS
from tailrace.machine.plan import MachinePlan, ModelNeeds
from tailrace.machine.planner import make_plan
from tailrace.machine.running_servers import LoadedModel, ServerState
from tailrace.machine.topology import read_topology
from tailrace.settings import Settings

GB = 10**9


def process(root: Path, pid: int, threads: list[str], pages: str = "") -> None:
    """A process's /proc folder: each thread's CPUs, and where its anonymous pages lie."""
    for number, cpus in enumerate(threads):
        task = root / f"proc/{pid}/task/{pid + number}"
        task.mkdir(parents=True)
        (task / "status").write_text(f"Name:\tpython\nCpus_allowed:\tf\nCpus_allowed_list:\t{cpus}\n")
    lines = f"7f00000000 bind:0 anon=9 dirty=9 {pages} kernelpagesize_kB=4\n7f10000000 default file=/m.gguf N1=9999\n"
    (root / f"proc/{pid}/numa_maps").write_text(lines if pages else "")


def state(plan: MachinePlan, http: int | None = 100, engines: tuple[int | None, ...] = (200, 300)) -> ServerState:
    loaded = (LoadedModel(name="m", plan=plan, engines=engines),)
    return ServerState(models=("m",), loaded=loaded, port=8000, supervisor=1, http=http, http_cpus=plan.http_cpus)


def two_replicas(root: Path) -> MachinePlan:
    plan = make_plan(machine("server-2x16x2", root), Settings())
    assert len(plan.replicas) == 2
    return plan


def test_a_server_as_planned(tmp_path: Path) -> None:
    plan = two_replicas(tmp_path)
    process(tmp_path, 100, ["0,32"])
    process(tmp_path, 200, ["1-15", *map(str, range(1, 16))], "N0=100000 N1=20")
    process(tmp_path, 300, [*map(str, range(16, 32))], "N1=100000")
    checked = check(state(plan), tmp_path)
    assert checked.as_planned
    assert [(each.process, each.pid) for each in checked.processes] == [
        ("http", 100),
        ("engine 0", 200),
        ("engine 1", 300),
    ]
    assert checked.processes[1].planned == "CPUs 1-15, memory on node 0"
    assert checked.processes[1].found == "16 threads on CPUs 1-15, node 0: 410 MB, node 1: 0 MB"


def test_what_differs_is_named(tmp_path: Path) -> None:
    plan = two_replicas(tmp_path)
    process(tmp_path, 100, ["0-63"])
    process(tmp_path, 200, [*map(str, range(1, 15)), "0-63"], "N0=100000 N1=90000")
    checked = check(state(plan, engines=(200, 300)), tmp_path)
    assert not checked.as_planned
    http, first, second = checked.processes
    assert http.problems == ["threads may run on CPUs 0-63, planned are CPUs 0,32"]
    threads, memory, alone = first.problems
    assert alone == "on CPUs 15 no thread is alone, which is planned"
    assert "1 of 15 threads may run on CPUs 0-63" in threads
    assert "planned on node 0, but lies on node 0: 410 MB, node 1: 369 MB" in memory
    assert second.problems == ["it isn't running"]


def test_the_engines_of_every_loaded_model_are_checked(tmp_path: Path) -> None:
    """A model that is served and not loaded has no process."""
    plan = make_plan(machine("virtual-2", tmp_path), Settings(pin="off"))
    process(tmp_path, 100, ["0-1"])
    process(tmp_path, 200, ["0-1"], "N0=5")
    loaded = (
        LoadedModel(name="coder", plan=plan, engines=(200,)),
        LoadedModel(name="writer", plan=plan, engines=(None,)),
    )
    server = msgspec.structs.replace(state(plan), models=("coder", "writer", "other"), loaded=loaded)
    checked = check(server, tmp_path)
    assert checked.model == "coder, writer, other"
    assert [(each.process, each.pid) for each in checked.processes] == [
        ("http", 100),
        ("engine coder", 200),
        ("engine writer", None),
    ]
    assert not checked.as_planned


def test_a_process_that_isn_t_started_yet(tmp_path: Path) -> None:
    checked = check(state(make_plan(machine("virtual-2", tmp_path), Settings()), http=None, engines=(None,)), tmp_path)
    assert [each.problems for each in checked.processes] == [["it hasn't been started"]] * 2


def test_nothing_bound_is_nothing_to_differ(tmp_path: Path) -> None:
    plan = make_plan(machine("virtual-2", tmp_path), Settings(pin="off"))
    process(tmp_path, 100, ["0-1"])
    process(tmp_path, 200, ["0-1", "0"], "N0=5")
    assert check(state(plan, engines=(200,)), tmp_path).as_planned


@pytest.mark.parametrize(
    ("threads", "problem"),
    [
        (["0", "0-1", "0-1"], None),
        (["0-1", "0-1"], "no threads are bound to CPU 0, the main thread's; 1 is planned"),
        (["0", "0", "0-1"], "2 threads are bound to CPU 0, the main thread's; 1 is planned"),
    ],
)
def test_the_main_thread_is_alone_on_its_cpu(threads: list[str], problem: str | None, tmp_path: Path) -> None:
    plan = make_plan(machine("virtual-2", tmp_path), Settings())
    process(tmp_path, 100, ["1"])
    process(tmp_path, 200, threads, "N0=5")
    http, engine = check(state(plan, engines=(200,)), tmp_path).processes
    assert http.problems == []
    assert engine.planned == "anywhere, main thread on CPU 0"
    assert engine.problems == ([problem] if problem else [])


def test_a_bound_main_thread_doesn_t_hide_where_memory_lies(tmp_path: Path) -> None:
    plan = make_plan(machine("container-3-cpus", tmp_path), Settings())
    assert plan.replicas[0].node is not None
    assert plan.replicas[0].main
    shown = dict(_processes(plan))["engine"]
    assert shown.startswith("memory on node 0; main thread on CPU 4; decode and prefill: 3 threads")


def test_a_diagnosis_of_a_recorded_machine(tmp_path: Path) -> None:
    topology = machine("container-3-cpus", tmp_path)
    found = diagnose(Settings(gpu_layers=0), None, [], [], root=tmp_path, topology=topology)
    assert (found.packages, found.cores, found.smt) == (2, 32, 1)
    assert (found.limits.usable, found.limits.cpuset, found.limits.affinity) == ("4-6", "4-6", None)
    assert found.limits.memory == 8 << 30
    assert [(node.node, node.cpus, node.usable) for node in found.nodes] == [(0, "0-15", "4-6"), (1, "16-31", "none")]
    assert found.available == 6 << 30
    assert found.plan == make_plan(topology, Settings(), ModelNeeds(0, 0))
    assert msgspec.json.decode(msgspec.json.encode(found))["plan"]["replicas"][0]["decode"]["threads"] == 3


def test_a_refused_plan_leaves_the_rest(tmp_path: Path) -> None:
    topology = machine("desktop-8", tmp_path)
    found = diagnose(Settings(cpus="8"), None, [], [], root=tmp_path, topology=topology)
    assert found.plan is None
    assert found.refused is not None
    assert "this machine has no CPU 8" in found.refused
    assert found.cores == 8


def test_native_libraries_are_reported(tmp_path: Path) -> None:
    topology = machine("virtual-2", tmp_path)
    off = diagnose(Settings(kernels="off"), None, [], [], root=tmp_path, topology=topology)
    assert {library.state for library in off.libraries} <= {"not used", "unavailable"}
    assert off.kernels.formats == off.kernels.repacked == []
    on = diagnose(Settings(), None, [], [], root=tmp_path, topology=topology)
    assert [library.tier for library in on.libraries] == [*KERNEL_TIERS, *LOGITS_TIERS]
    runnable = [tier for tier in LOGITS_TIERS if TIERS[tier].supported]
    for report in on.logits_ops:
        if [report.tier] == runnable[:1]:
            assert report.state == "used"
            assert "; proved " in report.reason
        elif report.tier in runnable:
            assert report.state == "not used"
            assert f"{runnable[0]} is faster" in report.reason
        else:
            assert report.state == "unavailable"
            assert "this CPU lacks " in report.reason


def test_native_libraries_that_can_not_be_built_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that could run them, and no compiler."""
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: TIERS["amx"].cpu_flags)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    found = diagnose(Settings(), None, [], [], root=tmp_path, topology=machine("virtual-2", tmp_path))
    assert {library.state for library in found.libraries} == {"unavailable"}
    for name in (
        "kernels for amx",
        "kernels for avx512-vnni",
        "logits operations for avx512",
        "logits operations for avx2",
    ):
        assert any(warning.startswith(f"{name}: there is no C compiler") for warning in found.warnings)


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8000"),
        ("0.0.0.0", True, "https://127.0.0.1:8000"),
        ("::", False, "http://[::1]:8000"),
        ("192.0.2.1", False, "http://192.0.2.1:8000"),
    ],
)
def test_a_server_is_reached_where_it_listens(host: str, tls: bool, url: str) -> None:
    found = state(make_plan(read_topology(), Settings(model="m")))
    assert msgspec.structs.replace(found, host=host, tls=tls).url == url


def test_a_server_that_is_gone_has_no_findings() -> None:
    gone = msgspec.structs.replace(state(make_plan(read_topology(), Settings(model="m"))), port=1)
    (reason,) = read_stats([gone], None)
    assert isinstance(reason, str)
    assert "http://127.0.0.1:1 doesn't answer" in reason
    assert read_stats([], None) == []
