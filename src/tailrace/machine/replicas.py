"""How many engine processes there are, and which NUMA node and cores each one has. A part of the planner's policy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from tailrace.errors import ConfigurationError
from tailrace.machine import cpulist
from tailrace.machine.phrases import counted, gigabytes, there_are
from tailrace.machine.plan import ModelNeeds
from tailrace.machine.topology import Core, Node, Topology
from tailrace.settings import Settings

#: Part of a node's available memory that a replica may fill: page tables, buffers and the HTTP process want some too.
_NODE_PART = 0.9

#: Each replica's NUMA node (None: not bound to one) and its cores.
Groups = list[tuple[int | None, tuple[Core, ...]]]


class Replicas:
    """``because`` takes what was chosen, its value and why; ``offload``: layers will lie on a GPU."""

    def __init__(
        self,
        topology: Topology,
        settings: Settings,
        model: ModelNeeds | None,
        offload: bool,
        because: Callable[[str, str, str], None],
    ) -> None:
        self._topology = topology
        self._settings = settings
        self._model = model
        self._offload = offload
        self._because = because

    def groups(self, cores: Sequence[Core]) -> Groups:
        """Each replica's node and cores, of those that decode. Raises ConfigurationError."""
        settings, topology = self._settings, self._topology
        whole: Groups = [(None, tuple(cores))]
        nodes = [node for node in topology.usable_nodes if any(core.node == node.number for core in cores)]
        if settings.replicas > 1 and len(topology.nodes) == 1:
            return self._shares(cores)
        if settings.replicas > max(1, len(nodes)):
            raise ConfigurationError(
                f"replicas is {settings.replicas}, but {there_are(len(nodes), 'NUMA node')} that this process may use "
                "and a replica takes one: lower --replicas"
            )
        if len(topology.nodes) == 1:
            self._because("replicas", "1", "the machine has one NUMA node")
            return whole
        if settings.numa == "off":
            self._because("replicas", "1", "numa is off: the kernel decides where memory lies")
            return whole
        if self._offload:
            self._because("replicas", "1", "layers lie on the GPU, which several replicas would fight for")
            return whole
        if settings.replicas == 1 and len(nodes) > 1:
            self._because("replicas", "1", "replicas is set; its memory is spread over the nodes page by page")
            return whole
        if settings.replicas == 0 and topology.quota is not None:
            self._because("replicas", "1", "a CPU quota doesn't say on which node it may be spent")
            return whole
        if settings.pin == "off":
            self._because("replicas", "1", "pin is off, and a replica's threads would have to stay on its node")
            return whole
        if settings.replicas <= 1 and {core.node for core in cores} != {node.number for node in nodes}:
            allowed = cpulist.format_cpus(node.number for node in nodes)
            self._because("replicas", "1", f"memory may come from node {allowed} alone, and cores are on others too")
            return whole
        if settings.replicas:
            nodes = sorted(sorted(nodes, key=lambda node: -node.available)[: settings.replicas], key=lambda n: n.number)
        if problem := self._too_small(nodes):
            if settings.replicas > 1:
                raise ConfigurationError(f"replicas is {settings.replicas}, but {problem}: lower --replicas")
            self._because("replicas", "1", f"{problem}: one copy, spread over the nodes page by page")
            return whole
        why = "each node reads its own copy of the weights, at its own memory's speed"
        if settings.replicas:
            why = "replicas is set"
        elif len(nodes) == 1:
            why = f"the usable cores are on node {nodes[0].number}, and memory is bound to it"
        self._because("replicas", str(len(nodes)), why)
        return [(node.number, tuple(core for core in cores if core.node == node.number)) for node in nodes]

    def _shares(self, cores: Sequence[Core]) -> Groups:
        """Replicas on a machine with one node: nothing that would be planned, but somebody may want to try them."""
        wanted = self._settings.replicas
        if wanted > len(cores):
            raise ConfigurationError(
                f"replicas is {wanted}, but {there_are(len(cores), 'core')} and each takes one: lower --replicas"
            )
        self._because("replicas", str(wanted), "replicas is set; they share one node's memory, each with its own cores")
        cuts = [number * len(cores) // wanted for number in range(wanted + 1)]
        return [(None, tuple(cores[start:end])) for start, end in itertools.pairwise(cuts)]

    def _too_small(self, nodes: Sequence[Node]) -> str:
        """Why a copy of the model for each node isn't possible; empty when it is."""
        if self._model is None:
            return ""
        need, left = self._model.total, self._topology.limits.memory_left
        if small := [node for node in nodes if need > _NODE_PART * node.available]:
            free = ", ".join(f"node {node.number} has {gigabytes(node.available)}" for node in small)
            return f"a copy of the model takes {gigabytes(need)}, and of available memory {free}"
        if left is not None and len(nodes) * need > left:
            return (
                f"{counted(len(nodes), 'copy', 'copies')} of the model take {gigabytes(len(nodes) * need)}, "
                f"and the control group's limit leaves {gigabytes(left)}"
            )
        return ""

    def interleaved(self, cores: Sequence[Core]) -> tuple[int, ...]:
        """The nodes that the memory of a replica without one is spread over; empty for none."""
        nodes = sorted({core.node for core in cores} & {node.number for node in self._topology.usable_nodes})
        spread = self._settings.numa == "auto" and not self._offload and len(nodes) > 1
        return tuple(nodes) if spread else ()
