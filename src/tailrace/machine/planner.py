"""Makes the plan: from topology, settings and the model's memory needs to a ``MachinePlan``. Pure.

Settings that the user has set are checked, all others are chosen, and each choice has a reason. docs/machine.md
describes the rules for users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from tailrace.errors import ConfigurationError
from tailrace.machine import cpulist
from tailrace.machine.plan import MachinePlan, ModelNeeds, PoolPlan, Reason, ReplicaPlan
from tailrace.machine.plan_wording import counted, there_are
from tailrace.machine.replicas import ReplicaGroups, ReplicaPlanner
from tailrace.machine.topology import Core, Topology
from tailrace.settings import Settings

#: With at least this many cores, the HTTP process gets a core of its own. With fewer, the engine would lose more than
#: sharing costs: a third or half of its cores.
_MIN_CORES_TO_RESERVE_ONE = 4
#: Poll levels. One level is about 2 ms of spinning, which outlasts the engine's work between two steps. On dedicated
#: cores threads spin through the gaps between requests, too, because no other process needs these cores.
_POLL_SHARED = 1
_POLL_DEDICATED = 50


def make_plan(
    topology: Topology, settings: Settings, model: ModelNeeds | None = None, *, offload: bool = False
) -> MachinePlan:
    """The plan for ``settings`` on this machine. ``offload``: layers will be on a GPU.

    Raises ConfigurationError, with the setting and the remedy, when a setting can't work on this machine.
    """
    return _Planner(topology, settings, model, offload).plan()


class _Planner:
    def __init__(self, topology: Topology, settings: Settings, model: ModelNeeds | None, offload: bool) -> None:
        self._topology = topology
        self._settings = settings
        self._offload = offload and settings.gpu_layers != 0
        self._reasons: list[Reason] = []
        self._replicas = ReplicaPlanner(topology, settings, model, self._offload, self._explain)

    def plan(self) -> MachinePlan:
        self._check_settings()
        cores = self._decode_cores()
        groups = self._replicas.groups(cores)
        http = self._http_cpus(groups)
        groups = [(node, self._without_http_cores(group, http)) for node, group in groups]
        pinned = self._decide_pinning(groups, http)
        dedicated = pinned and bool(http) and not any(cpu in http for _, group in groups for cpu in _cpus_of(group))
        replicas = tuple(
            ReplicaPlan(
                node=node,
                decode=self._decode_pool(group, pinned, dedicated),
                prefill=self._prefill_pool(group, pinned, dedicated),
                interleave=self._replicas.interleave_nodes(group) if node is None else (),
            )
            for node, group in groups
        )
        self._explain_threads(replicas)
        if pinned or not (separated := self._separate_main_thread(replicas)):
            return MachinePlan(replicas, http if pinned else (), tuple(self._reasons))
        main, others = separated
        replicas = (msgspec.structs.replace(replicas[0], main=main),)
        return MachinePlan(replicas, others, tuple(self._reasons))

    # Checks of the settings

    def _check_settings(self) -> None:
        settings, topology = self._settings, self._topology
        for name in ("cpus", "cpus_prefill", "http_cpus"):
            text = getattr(settings, name)
            if text is None:
                continue
            if settings.pin == "off":
                raise ConfigurationError(f"{name} is {text}, but pin is off, which binds nothing: drop one of them")
            self._can_bind(f"{name} is {text}")
            self._cpus(name)
        if settings.pin == "on":
            self._can_bind("pin is on")
        if settings.replicas > 1 and settings.numa == "off":
            raise ConfigurationError(
                f"replicas is {settings.replicas}, but numa is off: one replica runs on a NUMA node; drop one of them"
            )
        if settings.replicas > 1 and settings.pin == "off":
            raise ConfigurationError(
                f"replicas is {settings.replicas}, but pin is off: a replica's threads have to stay on its node; "
                "drop one of them"
            )
        if settings.replicas > 1 and self._offload:
            raise ConfigurationError(
                f"replicas is {settings.replicas}, but layers lie on the GPU, which the replicas would fight for: "
                "drop --replicas, or keep the model off the GPU with --gpu-layers 0"
            )
        if not topology.usable:
            raise ConfigurationError("this process may run on no CPU that is online: look at its cpuset and affinity")

    def _can_bind(self, what: str) -> None:
        if self._topology.affinity is None:
            raise ConfigurationError(f"{what}, but this system can't bind threads to CPUs: leave it out")

    def _cpus(self, name: str) -> tuple[int, ...]:
        """The CPUs in the setting ``name``; empty when it isn't set. Raises ConfigurationError."""
        text = getattr(self._settings, name)
        if text is None:
            return ()
        try:
            cpus = cpulist.parse(text)
        except ValueError as error:
            raise ConfigurationError(f"{name} can't be {text}: {error}; write it like 0-3,8") from error
        topology = self._topology
        if missing := set(cpus) - topology.online:
            raise ConfigurationError(
                f"{name} is {text}, but this machine has no CPU {cpulist.format_cpus(missing)}: "
                f"it has {cpulist.format_cpus(topology.online)}"
            )
        if forbidden := set(cpus) - topology.usable:
            raise ConfigurationError(
                f"{name} is {text}, but this process may not run on {cpulist.format_cpus(forbidden)}: affinity and "
                f"control groups (a container, taskset) leave it {cpulist.format_cpus(topology.usable)}"
            )
        return cpus

    # Choices, in the order in which they are made

    def _decode_cores(self) -> tuple[Core, ...]:
        """The cores that the engine may compute on."""
        topology = self._topology
        if cpus := self._cpus("cpus"):
            self._explain("cores", f"CPUs {cpulist.format_cpus(cpus)}", "cpus is set")
            return _restrict(topology.usable_cores, cpus)
        large = tuple(core for core in topology.usable_cores if not core.efficiency)
        small = len(topology.usable_cores) - len(large)
        if large and small and self._settings.threads > len(large):
            self._explain("cores", "all", f"threads is set, to more than the {len(large)} performance cores")
            return topology.usable_cores
        if large and small:
            why = f"a step waits for its slowest thread, so the {small} efficiency cores are left out"
            self._explain("cores", f"{counted(len(large), 'performance core')}", why)
            return large
        why = "what this process may use"
        if len(topology.usable_cores) < len(topology.cores):
            why += f" of {len(topology.cores)}"
        if topology.smt > 1:
            why += "; SMT siblings share a core's memory path and don't help to decode"
        self._explain("cores", counted(len(topology.usable_cores), "physical core"), why)
        return topology.usable_cores

    def _http_cpus(self, groups: ReplicaGroups) -> tuple[int, ...]:
        """CPUs that are reserved for the HTTP process; empty when it shares the engine's."""
        http, why = self._choose_http_cpus(groups)
        binds = self._settings.pin != "off" and self._topology.affinity is not None
        value = f"CPUs {cpulist.format_cpus(http)}" if binds else f"{counted(len(http), 'CPU')} left free"
        self._explain("HTTP process", value if http else "shared", why)
        return http

    def _choose_http_cpus(self, groups: ReplicaGroups) -> tuple[tuple[int, ...], str]:
        settings, topology = self._settings, self._topology
        first = groups[0][1]
        if cpus := self._cpus("http_cpus"):
            return cpus, "http_cpus is set"
        if cpus := self._cpus("cpus"):
            taken = _cpus_of([core for core in topology.usable_cores if not set(core.cpus).isdisjoint(cpus)])
            rest = tuple(sorted(topology.usable - set(taken)))
            return rest, "what cpus leaves" if rest else "cpus leaves no core: it shares the engine's"
        if topology.quota is not None:
            return (), "a quota is shared by all, whatever the CPU"
        if not any(core.efficiency for _, group in groups for core in group) and (
            small := _cpus_of([core for core in topology.usable_cores if core.efficiency])
        ):
            return small, "the efficiency cores, which don't decode"
        if len(first) < _MIN_CORES_TO_RESERVE_ONE:
            return (
                (),
                f"of {counted(len(first), 'core')} none is kept: the engine would lose more than sharing costs",
            )
        if settings.threads >= len(first):
            return (), "threads is set, to as many as there are cores"
        return first[0].cpus, "a core of its own, so that no step waits for it; the first also gets most interrupts"

    def _without_http_cores(self, cores: tuple[Core, ...], http: Sequence[int]) -> tuple[Core, ...]:
        """The cores without the HTTP process's; all cores where none would be left or the user has listed them."""
        left = tuple(core for core in cores if set(core.cpus).isdisjoint(http))
        return left if left and self._settings.cpus is None else cores

    def _decide_pinning(self, groups: ReplicaGroups, http: Sequence[int]) -> bool:
        settings, topology = self._settings, self._topology
        threads = max(settings.threads, settings.threads_prefill)
        listed = [n for n in ("cpus", "cpus_prefill", "http_cpus") if getattr(settings, n) is not None]
        if listed or settings.pin == "on":
            self._explain("pinning", "on", f"{listed[0] if listed else 'pin'} is set")
            return True
        if settings.pin == "off":
            self._explain("pinning", "off", "pin is off")
        elif topology.affinity is None:
            self._explain("pinning", "off", "this system can't bind threads to CPUs")
        elif topology.quota is not None:
            why = f"a quota of {topology.quota:g} CPUs doesn't say which: the kernel picks whichever are free"
            self._explain("pinning", "off", why)
        elif not http and len(groups) == 1:
            self._explain("pinning", "off", "engine and HTTP process share the cores: the kernel has to move threads")
        elif len(groups) == 1 and threads > (fewest_cpus := min(len(_cpus_of(group)) for _, group in groups)):
            self._explain(
                "pinning", "off", f"{threads} threads are set, and a replica has {counted(fewest_cpus, 'CPU')}"
            )
        else:
            self._explain("pinning", "on", "threads that move leave their caches behind")
            return True
        return False

    def _separate_main_thread(self, replicas: Sequence[ReplicaPlan]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Where every CPU computes: a CPU for the engine's main thread, and the other CPUs for the HTTP process.

        None where that isn't possible, or where the settings forbid it.
        """
        settings, topology = self._settings, self._topology
        cpus = sorted(topology.usable)
        if settings.pin == "off" or topology.affinity is None or topology.quota is not None:
            return None
        if len(replicas) > 1 or not 1 < len(cpus) == replicas[0].decode.threads:
            return None
        main, others = cpus[:1], cpus[1:]
        why = (
            "it sends tokens and computes on, but the kernel wakes a receiver on the sender's CPU: the HTTP process is "
            f"on {cpulist.format_cpus(others)}, where threads wait at that time; these run anywhere"
        )
        self._explain("main thread", f"CPU {main[0]}", why)
        return tuple(main), tuple(others)

    def _decode_pool(self, cores: Sequence[Core], pinned: bool, dedicated: bool) -> PoolPlan:
        listed = self._cpus("cpus")
        threads = self._settings.threads or self._within_quota(len(_cpus_of(cores) if listed else cores))
        return self._pool("threads", threads, cores, listed, pinned, dedicated)

    def _prefill_pool(self, cores: Sequence[Core], pinned: bool, dedicated: bool) -> PoolPlan:
        settings = self._settings
        if not (listed := self._cpus("cpus_prefill")):
            decode = self._decode_pool(cores, pinned, dedicated)
            threads = settings.threads_prefill or decode.threads
            return self._pool("threads_prefill", threads, cores, self._cpus("cpus"), pinned, dedicated)
        here = {core.node for core in cores}
        cores = _restrict([core for core in self._topology.usable_cores if core.node in here], listed)
        if not cores:
            raise ConfigurationError(
                f"cpus_prefill is {settings.cpus_prefill}, which has no CPU on NUMA node {cpulist.format_cpus(here)}: "
                "add some, or lower --replicas"
            )
        threads = settings.threads_prefill or self._within_quota(len(_cpus_of(cores)))
        return self._pool("threads_prefill", threads, cores, listed, pinned, dedicated)

    def _pool(
        self, name: str, threads: int, cores: Sequence[Core], listed: Sequence[int], pinned: bool, dedicated: bool
    ) -> PoolPlan:
        poll = self._settings.poll
        if poll < 0:
            poll = _POLL_DEDICATED if dedicated else _POLL_SHARED
        priority = self._settings.thread_priority
        if not pinned:
            return PoolPlan(threads=threads, poll=poll, priority=priority)
        # One CPU of each core while that is enough. CPUs that the user has listed are used as listed.
        cpus = _cpus_of(cores) if listed or threads > len(cores) else tuple(sorted(core.cpus[0] for core in cores))
        if threads > len(cpus):
            raise ConfigurationError(
                f"{name} is {threads}, but {there_are(len(cpus), 'CPU')} to bind them to "
                f"({cpulist.format_cpus(cpus)}): lower {name}, list more CPUs, or set pin to off"
            )
        return PoolPlan(threads, cpus, strict=threads == len(cpus), poll=poll, priority=priority)

    def _within_quota(self, threads: int) -> int:
        """``threads``, limited to the quota's whole CPUs. Of four or more, one is for the HTTP process."""
        quota = self._topology.quota
        if quota is None:
            return threads
        whole = max(1, math.floor(quota))
        return min(threads, whole - 1 if whole >= _MIN_CORES_TO_RESERVE_ONE else whole)

    # Reasons

    def _explain(self, choice: str, value: str, why: str) -> None:
        self._reasons.append(Reason(choice, value, why))

    def _explain_threads(self, replicas: Sequence[ReplicaPlan]) -> None:
        settings, quota = self._settings, self._topology.quota
        if settings.threads:
            why = "threads is set"
            if settings.threads > len(self._topology.usable):
                why += f", to more than the {len(self._topology.usable)} CPUs there are: a step will wait for itself"
        elif quota is not None:
            why = f"a quota of {quota:g} CPUs, rounded down"
            if math.floor(quota) >= _MIN_CORES_TO_RESERVE_ONE:
                why += ", less one for the HTTP process: a used-up quota stops all until its period ends"
        else:
            why = "one a CPU that is listed" if settings.cpus else "one a core"
        self._explain("decode threads", _each([replica.decode.threads for replica in replicas]), why)
        same = all(replica.decode.threads == replica.prefill.threads for replica in replicas)
        why = (
            "threads_prefill is set"
            if settings.threads_prefill
            else "as for decoding"
            if same
            else "one a CPU that is listed"
        )
        self._explain("prefill threads", _each([replica.prefill.threads for replica in replicas]), why)
        poll = replicas[0].decode.poll
        if settings.poll >= 0:
            why = "poll is set"
        elif poll == _POLL_DEDICATED:
            why = "the cores are the engine's own: threads spin through the gaps between requests"
        else:
            why = "cores are shared: threads spin through the gap between two steps, then let go"
        self._explain("poll", str(poll), why)
        if settings.thread_priority:
            self._explain("priority", str(settings.thread_priority), "thread_priority is set")


def _restrict(cores: Sequence[Core], cpus: Sequence[int]) -> tuple[Core, ...]:
    """The cores with their CPUs reduced to ``cpus``; cores without any are left out."""
    restricted = (
        Core(core.package, core.node, tuple(cpu for cpu in core.cpus if cpu in cpus), core.efficiency) for core in cores
    )
    return tuple(core for core in restricted if core.cpus)


def _cpus_of(cores: Sequence[Core]) -> tuple[int, ...]:
    return tuple(sorted(cpu for core in cores for cpu in core.cpus))


def _each(threads: Sequence[int]) -> str:
    return " + ".join(map(str, threads))
