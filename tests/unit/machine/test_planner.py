"""The plans for recorded machines, their changes by settings, and the settings that are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recorded_machines import expand, machine
from tailrace.errors import ConfigurationError
from tailrace.machine.plan import MachinePlan, ModelNeeds, PoolPlan, ReplicaPlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import Core, Node, Topology, read_topology
from tailrace.settings import Settings

GB = 10**9


def plan(
    name: str,
    root: Path,
    *,
    affinity: str | None = None,
    model: ModelNeeds | None = None,
    offload: bool = False,
    **settings: Any,
) -> MachinePlan:
    return make_plan(machine(name, root, affinity), Settings(**settings), model, offload=offload)


def bare(made: MachinePlan) -> MachinePlan:
    """The plan without its reasons."""
    return msgspec.structs.replace(made, reasons=())


def single(pool: PoolPlan, http: tuple[int, ...] = (), *, interleave: tuple[int, ...] = ()) -> MachinePlan:
    """The plan of one replica whose two pools are alike."""
    return MachinePlan((ReplicaPlan(None, pool, pool, interleave),), http)


def why(made: MachinePlan, choice: str) -> str:
    (reason,) = (reason for reason in made.reasons if reason.choice == choice)
    return f"{reason.value}: {reason.why}"


def bound(*cpus: int, poll: int = 50) -> PoolPlan:
    """A thread on each of the CPUs."""
    return PoolPlan(len(cpus), cpus, strict=True, poll=poll)


# What is chosen


def test_one_socket_keeps_a_core_for_http(tmp_path: Path) -> None:
    made = plan("desktop-8", tmp_path)
    assert bare(made) == single(bound(1, 2, 3, 4, 5, 6, 7), (0,))
    assert why(made, "decode threads") == "7: one a core"
    assert why(made, "HTTP process").startswith("CPUs 0: a core of its own")


def apart(pool: PoolPlan, main: int, http: tuple[int, ...]) -> MachinePlan:
    """The plan of one replica whose main thread has a CPU to itself and whose others run anywhere."""
    return MachinePlan((ReplicaPlan(None, pool, pool, main=(main,)),), http)


def test_two_cores_are_shared_and_the_http_process_keeps_off_the_main_thread(tmp_path: Path) -> None:
    made = plan("virtual-2", tmp_path)
    assert bare(made) == apart(PoolPlan(2, poll=1), 0, (1,))
    assert why(made, "main thread").startswith("CPU 0: it sends tokens")
    assert why(made, "HTTP process").startswith("shared: of 2 cores none is kept")
    assert why(made, "pinning").startswith("off: engine and HTTP process share the cores")


def test_two_sockets_have_a_replica_each(tmp_path: Path) -> None:
    made = plan("server-2x16x2", tmp_path, model=ModelNeeds(40 * GB, 8 * GB))
    first, second = bound(*range(1, 16)), bound(*range(16, 32))
    assert bare(made) == MachinePlan((ReplicaPlan(0, first, first), ReplicaPlan(1, second, second)), (0, 32))
    assert why(made, "decode threads") == "15 + 16: one a core"
    assert "SMT siblings" in why(made, "cores")


def test_two_sockets_of_a_real_recording(tmp_path: Path) -> None:
    made = plan("emulated-2x8", tmp_path)
    first, second = bound(*range(1, 8)), bound(*range(8, 16))
    assert bare(made) == MachinePlan((ReplicaPlan(0, first, first), ReplicaPlan(1, second, second)), (0,))
    # Each node has 512 MB, and the second holds the file system, which isn't free.
    large = plan("emulated-2x8", tmp_path, model=ModelNeeds(400_000_000, 0))
    assert bare(large) == single(bound(*range(1, 16)), (0,), interleave=(0, 1))
    assert "node 1 has 0.4 GB" in why(large, "replicas")


def test_four_nodes_have_a_replica_each_and_the_one_without_cores_none(tmp_path: Path) -> None:
    made = plan("server-4-nodes", tmp_path)
    assert [replica.node for replica in made.replicas] == [0, 1, 2, 3]
    assert [replica.decode.cpus for replica in made.replicas] == [
        tuple(range(1, 8)),
        tuple(range(8, 16)),
        tuple(range(16, 24)),
        tuple(range(24, 32)),
    ]
    assert made.http_cpus == (0,)


def test_a_model_too_large_for_a_node_is_spread_over_all(tmp_path: Path) -> None:
    made = plan("server-2x16x2", tmp_path, model=ModelNeeds(115 * GB, 10 * GB))
    assert bare(made) == single(bound(*range(1, 32)), (0, 32), interleave=(0, 1))
    assert why(made, "replicas") == (
        "1: a copy of the model takes 125.0 GB, and of available memory node 0 has 123.3 GB, node 1 has 123.3 GB: "
        "one copy, spread over the nodes page by page"
    )


def test_a_group_s_memory_limit_counts_for_all_copies(tmp_path: Path) -> None:
    whole = machine("server-2x16x2", tmp_path)
    limited = dataclasses.replace(whole, limits=dataclasses.replace(whole.limits, memory_left=90 * GB))
    assert len(make_plan(limited, Settings(), ModelNeeds(40 * GB, 4 * GB)).replicas) == 2
    made = make_plan(limited, Settings(), ModelNeeds(40 * GB, 6 * GB))
    assert len(made.replicas) == 1
    assert "2 copies of the model take 92.0 GB, and the control group's limit leaves 90.0 GB" in why(made, "replicas")


def test_a_container_counts_its_three_cpus(tmp_path: Path) -> None:
    made = plan("container-3-cpus", tmp_path)
    pool = PoolPlan(3, poll=1)
    assert len(made.http_cpus) == 2
    assert bare(made) == MachinePlan((ReplicaPlan(0, pool, pool, main=(4,)),), made.http_cpus)
    assert why(made, "cores") == "3 physical cores: what this process may use of 32"


def test_a_quota_is_rounded_down_and_nothing_is_bound(tmp_path: Path) -> None:
    made = plan("container-quota", tmp_path)
    assert bare(made) == single(PoolPlan(2, poll=1))
    assert why(made, "decode threads") == "2: a quota of 2.5 CPUs, rounded down"


def test_a_larger_quota_leaves_a_cpu_to_http(tmp_path: Path) -> None:
    made = plan("pod-nested", tmp_path)
    assert bare(made) == single(PoolPlan(5, poll=1))
    assert "less one for the HTTP process" in why(made, "decode threads")


def test_a_quota_under_one_cpu_is_one_thread(tmp_path: Path) -> None:
    expand("container-quota", tmp_path)
    (tmp_path / "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us").write_text("50000\n")
    made = make_plan(read_topology(tmp_path, frozenset(range(16))), Settings())
    assert made.replicas[0].decode.threads == 1


def test_hybrid_decodes_on_performance_cores_and_serves_on_the_others(tmp_path: Path) -> None:
    made = plan("hybrid-6p8e", tmp_path)
    assert bare(made) == single(bound(0, 2, 4, 6, 8, 10), tuple(range(12, 20)))
    assert "8 efficiency cores are left out" in why(made, "cores")


def test_big_and_little_cores(tmp_path: Path) -> None:
    assert bare(plan("arm-big-little", tmp_path)) == single(bound(4, 5, 6, 7), (0, 1, 2, 3))


def test_little_cores_alone_do_decode(tmp_path: Path) -> None:
    assert bare(plan("arm-big-little", tmp_path, affinity="0-2")) == apart(PoolPlan(3, poll=1), 0, (1, 2))


def test_affinity_to_one_socket_binds_memory_to_it(tmp_path: Path) -> None:
    made = plan("server-2x16x2", tmp_path, affinity="16-31,48-63")
    pool = bound(*range(17, 32))
    assert bare(made) == MachinePlan((ReplicaPlan(1, pool, pool),), (16, 48))


def test_memory_of_one_node_alone_is_left_to_the_kernel(tmp_path: Path) -> None:
    expand("server-2x16x2", tmp_path)
    (tmp_path / "sys/fs/cgroup/cpuset.mems.effective").write_text("1\n")
    made = make_plan(read_topology(tmp_path, frozenset(range(64))), Settings())
    assert bare(made) == single(bound(*range(1, 32)), (0, 32))
    assert "memory may come from node 1 alone" in why(made, "replicas")


def test_layers_on_the_gpu_have_one_replica(tmp_path: Path) -> None:
    made = plan("server-2x16x2", tmp_path, offload=True)
    assert bare(made) == single(bound(*range(1, 32)), (0, 32))
    assert len(plan("server-2x16x2", tmp_path, offload=True, gpu_layers=0).replicas) == 2


def test_nothing_is_bound_on_a_system_that_can_not_bind() -> None:
    cores = tuple(Core(0, 0, (cpu,), efficiency=cpu >= 4) for cpu in range(8))
    made = make_plan(Topology(cores, (Node(0, 16 * GB, 8 * GB),)), Settings())
    assert bare(made) == single(PoolPlan(4, poll=1))
    assert why(made, "HTTP process").startswith("4 CPUs left free")


# What flags change


def test_threads(tmp_path: Path) -> None:
    made = plan("desktop-8", tmp_path, threads=4, threads_prefill=6)
    (replica,) = made.replicas
    cores = tuple(range(1, 8))
    assert replica.decode == PoolPlan(4, cores, strict=False, poll=50)
    assert replica.prefill == PoolPlan(6, cores, strict=False, poll=50)
    assert why(made, "decode threads") == "4: threads is set"


def test_as_many_threads_as_cores_share_them_with_http(tmp_path: Path) -> None:
    assert bare(plan("desktop-8", tmp_path, threads=8)) == apart(PoolPlan(8, poll=1), 0, tuple(range(1, 8)))


@pytest.mark.parametrize(
    ("name", "affinity", "settings"),
    [
        ("virtual-2", None, {"pin": "off"}),
        ("virtual-2", None, {"threads": 1}),  # The other CPU is free.
        ("virtual-2", None, {"threads": 3}),
        ("virtual-2", "0", {}),
        ("virtual-2", None, {"cpus": "0-1"}),  # Bound as it is set.
        ("container-quota", None, {}),
    ],
)
def test_otherwise_the_main_thread_is_not_bound(
    name: str, affinity: str | None, settings: dict[str, Any], tmp_path: Path
) -> None:
    made = plan(name, tmp_path, affinity=affinity, **settings)
    assert [replica.main for replica in made.replicas] == [()]
    assert "main thread" not in [reason.choice for reason in made.reasons]


def test_more_threads_than_cpus_have_a_warning(tmp_path: Path) -> None:
    made = plan("virtual-2", tmp_path, threads=3)
    assert bare(made) == single(PoolPlan(3, poll=1))
    assert "more than the 2 CPUs" in why(made, "decode threads")


def test_prefill_may_use_smt_siblings_too(tmp_path: Path) -> None:
    made = plan("hybrid-6p8e", tmp_path, threads_prefill=12)
    (replica,) = made.replicas
    assert replica.decode == bound(0, 2, 4, 6, 8, 10)
    assert replica.prefill == bound(*range(12))


def test_threads_beyond_the_performance_cores_take_the_others(tmp_path: Path) -> None:
    assert bare(plan("hybrid-6p8e", tmp_path, threads=14)) == single(PoolPlan(14, poll=1))


def test_cpus(tmp_path: Path) -> None:
    made = plan("server-2x16x2", tmp_path, cpus="0-3,16-19", cpus_prefill="0-7,16-23,32-39,48-55")
    assert bare(made) == MachinePlan(
        (
            ReplicaPlan(0, bound(*range(0, 4)), bound(*range(0, 8), *range(32, 40))),
            ReplicaPlan(1, bound(*range(16, 20)), bound(*range(16, 24), *range(48, 56))),
        ),
        tuple(cpu for cpu in range(64) if cpu % 16 > 3),
    )
    assert why(made, "decode threads") == "4 + 4: one a CPU that is listed"


def test_cpus_bind_where_nothing_would_be(tmp_path: Path) -> None:
    assert bare(plan("virtual-2", tmp_path, cpus="1")) == single(bound(1), (0,))
    assert bare(plan("virtual-2", tmp_path, cpus="0-1")) == single(bound(0, 1, poll=1))
    assert bare(plan("container-quota", tmp_path, pin="on")) == single(
        PoolPlan(2, tuple(range(16)), strict=False, poll=1)
    )


def test_http_cpus(tmp_path: Path) -> None:
    assert bare(plan("desktop-8", tmp_path, http_cpus="6-7")) == single(bound(0, 1, 2, 3, 4, 5), (6, 7))
    assert bare(plan("virtual-2", tmp_path, http_cpus="0-1")) == single(bound(0, 1, poll=1), (0, 1))


def test_pin_off(tmp_path: Path) -> None:
    made = plan("desktop-8", tmp_path, pin="off")
    assert bare(made) == single(PoolPlan(7, poll=1))
    assert why(made, "HTTP process").startswith("1 CPU left free")
    assert bare(plan("server-2x16x2", tmp_path / "2", pin="off")) == single(PoolPlan(31, poll=1), interleave=(0, 1))


def test_poll_and_priority(tmp_path: Path) -> None:
    pool = PoolPlan(7, tuple(range(1, 8)), strict=True, poll=0, priority=2)
    assert bare(plan("desktop-8", tmp_path, poll=0, thread_priority=2)) == single(pool, (0,))


def test_replicas_and_numa(tmp_path: Path) -> None:
    one = plan("server-4-nodes", tmp_path / "1", replicas=1)
    assert bare(one) == single(bound(*range(1, 32)), (0,), interleave=(0, 1, 2, 3))
    two = plan("server-4-nodes", tmp_path / "2", replicas=2)
    assert [replica.node for replica in two.replicas] == [0, 1]  # Those with the most memory.
    off = plan("server-4-nodes", tmp_path / "3", numa="off")
    assert bare(off) == single(bound(*range(1, 32)), (0,))


def test_replicas_on_one_node_share_its_cores(tmp_path: Path) -> None:
    made = plan("desktop-8", tmp_path, replicas=2)
    assert [(replica.node, replica.decode.cpus) for replica in made.replicas] == [
        (None, (1, 2, 3)),
        (None, (4, 5, 6, 7)),
    ]
    assert made.http_cpus == (0,)
    two = plan("virtual-2", tmp_path / "2", replicas=2)
    assert [replica.decode.cpus for replica in two.replicas] == [(0,), (1,)]


def test_a_plan_travels_as_json(tmp_path: Path) -> None:
    made = plan("server-2x16x2", tmp_path)
    assert msgspec.json.decode(msgspec.json.encode(made), type=MachinePlan) == made


# What can't work


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("desktop-8", {"cpus": "4-9"}, "cpus is 4-9, but this machine has no CPU 8-9: it has 0-7"),
        ("container-3-cpus", {"cpus": "0-3"}, "cpus is 0-3, but this process may not run on 0-3: .* leave it 4-6"),
        ("container-3-cpus", {"http_cpus": "7"}, "http_cpus is 7, but this process may not run on 7"),
        ("desktop-8", {"cpus_prefill": "3-1"}, "cpus_prefill can't be 3-1: 3-1 runs backwards"),
        ("desktop-8", {"cpus": "0-3", "pin": "off"}, "cpus is 0-3, but pin is off"),
        ("desktop-8", {"cpus": "0-3", "threads": 5}, r"threads is 5, but there are 4 CPUs to bind them to \(0-3\)"),
        ("desktop-8", {"pin": "on", "threads": 9}, "threads is 9, but there are 8 CPUs to bind them to"),
        ("desktop-8", {"pin": "on", "threads_prefill": 9}, "threads_prefill is 9, but there are 7 CPUs"),
        ("server-2x16x2", {"threads": 33}, "threads is 33, but there are 32 CPUs to bind them to"),
        ("desktop-8", {"replicas": 9}, "replicas is 9, but there are 8 cores and each takes one"),
        ("server-4-nodes", {"replicas": 5}, "replicas is 5, but there are 4 NUMA nodes"),
        ("server-4-nodes", {"replicas": 2, "cpus": "0-7"}, "replicas is 2, but there is 1 NUMA node"),
        ("server-4-nodes", {"replicas": 4, "numa": "off"}, "replicas is 4, but numa is off"),
        ("server-4-nodes", {"replicas": 4, "pin": "off"}, "replicas is 4, but pin is off"),
        ("server-4-nodes", {"cpus_prefill": "0-7"}, "cpus_prefill is 0-7, which has no CPU on NUMA node 1"),
    ],
)
def test_impossible_settings_are_refused_by_name(
    name: str, settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        plan(name, tmp_path, **settings)


def test_replicas_that_don_t_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"replicas is 2, but a copy of the model takes 130.0 GB.*lower"):
        plan("server-2x16x2", tmp_path, replicas=2, model=ModelNeeds(120 * GB, 10 * GB))


def test_replicas_on_a_gpu_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="replicas is 2, but layers lie on the GPU"):
        plan("server-2x16x2", tmp_path, replicas=2, offload=True)


def test_binding_is_refused_where_it_can_t_be_had() -> None:
    topology = Topology((Core(0, 0, (0,)), Core(0, 0, (1,))), (Node(0, GB, GB),))
    for settings in (Settings(pin="on"), Settings(cpus="0")):
        with pytest.raises(ConfigurationError, match="this system can't bind threads"):
            make_plan(topology, settings)


def test_a_cpuset_and_an_affinity_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="may run on no CPU"):
        plan("container-3-cpus", tmp_path, affinity="0-3")
