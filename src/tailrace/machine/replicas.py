"""Decides how many engine processes there are, and the NUMA node and cores of each. A part of the planner."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from tailrace.errors import ConfigurationError
from tailrace.machine import cpulist
from tailrace.machine.plan import ModelNeeds
from tailrace.machine.plan_wording import counted, gigabytes, there_are
from tailrace.machine.topology import Core, Node, Topology
from tailrace.settings import Settings

#: Part of a node's available memory that a replica may fill. Page tables, buffers and the HTTP process need some, too.
_MAX_NODE_PART = 0.9

#: Each replica's NUMA node (None: not bound to one) and its cores.
ReplicaGroups = list[tuple[int | None, tuple[Core, ...]]]


class ReplicaPlanner:
    """The replicas' part of the planner. ``offload``: layers will be on a GPU.

    ``explain`` is called with each choice, its value and the reason.
    """

    def __init__(
        self,
        topology: Topology,
        settings: Settings,
        model: ModelNeeds | None,
        offload: bool,
        explain: Callable[[str, str, str], None],
    ) -> None:
        self._topology = topology
        self._settings = settings
        self._model = model
        self._offload = offload
        self._explain = explain

    def groups(self, cores: Sequence[Core]) -> ReplicaGroups:
        """Each replica's node and its part of ``cores``. Raises ConfigurationError."""
        settings, topology = self._settings, self._topology
        whole: ReplicaGroups = [(None, tuple(cores))]
        nodes = [node for node in topology.usable_nodes if any(core.node == node.number for core in cores)]
        if settings.replicas > 1 and len(topology.nodes) == 1:
            return self._split_one_node(cores)
        if settings.replicas > max(1, len(nodes)):
            raise ConfigurationError(
                f"replicas is {settings.replicas}, but {there_are(len(nodes), 'NUMA node')} that this process may use "
                "and a replica takes one: lower --replicas"
            )
        if len(topology.nodes) == 1:
            self._explain("replicas", "1", "the machine has one NUMA node")
            return whole
        if settings.numa == "off":
            self._explain("replicas", "1", "numa is off: the kernel decides where memory lies")
            return whole
        if self._offload:
            self._explain("replicas", "1", "layers lie on the GPU, which several replicas would fight for")
            return whole
        if settings.replicas == 1 and len(nodes) > 1:
            self._explain("replicas", "1", "replicas is set; its memory is spread over the nodes page by page")
            return whole
        if settings.replicas == 0 and topology.quota is not None:
            self._explain("replicas", "1", "a CPU quota doesn't say on which node it may be spent")
            return whole
        if settings.pin == "off":
            self._explain("replicas", "1", "pin is off, and a replica's threads would have to stay on its node")
            return whole
        if settings.replicas <= 1 and {core.node for core in cores} != {node.number for node in nodes}:
            allowed = cpulist.format_cpus(node.number for node in nodes)
            self._explain("replicas", "1", f"memory may come from node {allowed} alone, and cores are on others too")
            return whole
        if settings.replicas:
            nodes = sorted(sorted(nodes, key=lambda node: -node.available)[: settings.replicas], key=lambda n: n.number)
        if problem := self._too_small(nodes):
            if settings.replicas > 1:
                raise ConfigurationError(f"replicas is {settings.replicas}, but {problem}: lower --replicas")
            self._explain("replicas", "1", f"{problem}: one copy, spread over the nodes page by page")
            return whole
        why = "each node reads its own copy of the weights, at its own memory's speed"
        if settings.replicas:
            why = "replicas is set"
        elif len(nodes) == 1:
            why = f"the usable cores are on node {nodes[0].number}, and memory is bound to it"
        self._explain("replicas", str(len(nodes)), why)
        return [(node.number, tuple(core for core in cores if core.node == node.number)) for node in nodes]

    def _split_one_node(self, cores: Sequence[Core]) -> ReplicaGroups:
        """Replicas on a machine with one node. They are never planned, but the user may set them."""
        count = self._settings.replicas
        if count > len(cores):
            raise ConfigurationError(
                f"replicas is {count}, but {there_are(len(cores), 'core')} and each takes one: lower --replicas"
            )
        self._explain("replicas", str(count), "replicas is set; they share one node's memory, each with its own cores")
        bounds = [number * len(cores) // count for number in range(count + 1)]
        return [(None, tuple(cores[start:end])) for start, end in itertools.pairwise(bounds)]

    def _too_small(self, nodes: Sequence[Node]) -> str:
        """Why there can't be a copy of the model for each node, in words; empty when there can."""
        if self._model is None:
            return ""
        need, left = self._model.total, self._topology.limits.memory_left
        if small := [node for node in nodes if need > _MAX_NODE_PART * node.available]:
            free = ", ".join(f"node {node.number} has {gigabytes(node.available)}" for node in small)
            return f"a copy of the model takes {gigabytes(need)}, and of available memory {free}"
        if left is not None and len(nodes) * need > left:
            return (
                f"{counted(len(nodes), 'copy', 'copies')} of the model take {gigabytes(len(nodes) * need)}, "
                f"and the control group's limit leaves {gigabytes(left)}"
            )
        return ""

    def interleave_nodes(self, cores: Sequence[Core]) -> tuple[int, ...]:
        """The nodes that memory is spread over, for a replica that isn't bound to one; empty: the kernel chooses."""
        nodes = sorted({core.node for core in cores} & {node.number for node in self._topology.usable_nodes})
        spread = self._settings.numa == "auto" and not self._offload and len(nodes) > 1
        return tuple(nodes) if spread else ()
