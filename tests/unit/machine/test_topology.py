"""Cores, SMT siblings, nodes and caches of recorded machines, and the part that limits leave usable."""

from __future__ import annotations

from pathlib import Path

from recorded_machines import expand, machine
from tailrace.machine import cpulist
from tailrace.machine.cgroup import Limits, read_limits
from tailrace.machine.topology import Cache, Core, Node, read_topology


def test_one_socket_without_smt(tmp_path: Path) -> None:
    topology = machine("desktop-8", tmp_path)
    assert topology.cores == tuple(Core(0, 0, (cpu,)) for cpu in range(8))
    assert topology.nodes == (Node(0, 32_768_000 * 1024, 24_000_000 * 1024),)
    assert topology.caches == (Cache(12 << 20, tuple(range(8))),)
    assert topology.limits == Limits(cpus=frozenset(range(8)), nodes=frozenset({0}))
    assert topology.model == "Intel(R) Core(TM) i7-9700K CPU @ 3.60GHz"
    assert (topology.packages, topology.smt, topology.quota) == (1, 1, None)


def test_two_sockets_with_smt(tmp_path: Path) -> None:
    topology = machine("server-2x16x2", tmp_path)
    assert topology.cores == tuple(Core(cpu // 16, cpu // 16, (cpu, cpu + 32)) for cpu in range(32))
    available = (100_000_000 + 20_000_000 + 400_000) * 1024
    assert topology.nodes == (
        Node(0, 131_072_000 * 1024, available, (10, 32)),
        Node(1, 131_072_000 * 1024, available, (32, 10)),
    )
    assert [cpulist.format_cpus(cache.cpus) for cache in topology.caches] == [
        "0-7,32-39",
        "8-15,40-47",
        "16-23,48-55",
        "24-31,56-63",
    ]
    assert (topology.packages, topology.smt) == (2, 2)


def test_four_nodes_and_one_without_cores(tmp_path: Path) -> None:
    topology = machine("server-4-nodes", tmp_path)
    assert [core.node for core in topology.cores] == [cpu // 8 for cpu in range(32)]
    assert [node.number for node in topology.nodes] == [0, 1, 2, 3, 4]
    assert [node.number for node in topology.usable_nodes] == [0, 1, 2, 3]
    assert topology.nodes[1].distances == (12, 10, 32, 32, 60)


def test_a_container_counts_only_its_cpus(tmp_path: Path) -> None:
    topology = machine("container-3-cpus", tmp_path)
    assert topology.usable == {4, 5, 6}
    assert len(topology.cores) == 32
    assert topology.usable_cores == tuple(Core(0, 0, (cpu,)) for cpu in (4, 5, 6))
    assert [node.number for node in topology.usable_nodes] == [0]
    # 8 GiB, 3 of them in use, of which 1 is cache.
    assert topology.limits.memory == 8 << 30
    assert topology.limits.memory_left == 6 << 30


def test_affinity_counts_as_well(tmp_path: Path) -> None:
    assert machine("container-3-cpus", tmp_path, affinity="0-4,6").usable == {4, 6}


def test_affinity_may_leave_one_sibling_of_a_core(tmp_path: Path) -> None:
    topology = machine("server-2x16x2", tmp_path, affinity="0-1,32")
    assert topology.usable_cores == (Core(0, 0, (0, 32)), Core(0, 0, (1,)))


def test_a_quota_in_a_version_1_container_without_a_namespace(tmp_path: Path) -> None:
    limits = read_limits(expand("container-quota", tmp_path))
    assert limits == Limits(
        cpus=frozenset(range(16)),
        nodes=frozenset({0}),
        quota=2.5,
        memory=4 << 30,
        memory_left=(4 << 30) - (1 << 30) + (1 << 29),
    )


def test_the_tightest_of_nested_groups_binds(tmp_path: Path) -> None:
    limits = read_limits(expand("pod-nested", tmp_path))
    assert limits.quota == 6.0
    assert limits.memory == 16 << 30
    # The pod has 15 GiB left of its own limit, but its slice only 4 for all pods.
    assert limits.memory_left == 4 << 30


def test_a_quota_above_the_cpus_is_none(tmp_path: Path) -> None:
    topology = machine("pod-nested", tmp_path, affinity="0-3")
    assert topology.limits.quota == 6.0
    assert topology.quota is None


def test_hybrid_cores_of_intel(tmp_path: Path) -> None:
    topology = machine("hybrid-6p8e", tmp_path)
    large = [core for core in topology.cores if not core.efficiency]
    assert [core.cpus for core in large] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)]
    assert [core.cpus for core in topology.cores if core.efficiency] == [(cpu,) for cpu in range(12, 20)]


def test_cores_of_unlike_clocks_where_nothing_else_tells(tmp_path: Path) -> None:
    expand("hybrid-6p8e", tmp_path)
    (tmp_path / "sys/devices/cpu_core/cpus").unlink()
    for cpu in range(12, 20):
        (tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq").write_text("3300000\n")
    topology = read_topology(tmp_path, frozenset(range(20)))
    assert [core.cpus[0] for core in topology.cores if core.efficiency] == list(range(12, 20))


def test_big_and_little_cores_of_arm(tmp_path: Path) -> None:
    topology = machine("arm-big-little", tmp_path)
    assert [(core.cpus, core.efficiency) for core in topology.cores] == [((cpu,), cpu < 4) for cpu in range(8)]
    assert topology.packages == 1
    assert topology.nodes == (Node(0, 16_000_000 * 1024, 12_000_000 * 1024),)


def test_the_one_node_s_memory_is_the_machine_s(tmp_path: Path) -> None:
    """Memory that was plugged into a virtual machine later doesn't show in its node's file."""
    topology = machine("virtual-2", tmp_path)
    assert topology.nodes == (Node(0, 24_684_084 * 1024, 22_010_220 * 1024),)
    assert topology.limits == Limits(cpus=frozenset({0, 1}), nodes=frozenset({0}))


def test_a_core_that_is_switched_off_isn_t_there(tmp_path: Path) -> None:
    expand("server-2x16x2", tmp_path)
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-31,33-63\n")
    topology = read_topology(tmp_path, frozenset(range(64)))
    assert topology.cores[0] == Core(0, 0, (0,))
    assert topology.cores[1] == Core(0, 0, (1, 33))


def test_this_machine_is_read() -> None:
    topology = read_topology()
    assert topology.usable
    assert topology.usable <= topology.online
    assert all(node.memory > 0 for node in topology.nodes)


def test_without_sys_there_are_at_least_cores(tmp_path: Path) -> None:
    topology = read_topology(tmp_path, None)
    assert topology.usable_cores
    assert topology.affinity is None
