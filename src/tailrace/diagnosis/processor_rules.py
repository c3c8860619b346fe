"""Rules about CPU time: too many threads, other processes on the engine's cores, quotas, and slow clocks."""

from __future__ import annotations

from collections.abc import Iterator

from tailrace.diagnosis.catalogue import Finding, finding
from tailrace.diagnosis.sample import Interval
from tailrace.diagnosis.wording import cores, counted, percent, seconds
from tailrace.machine import cpulist

#: Part of their time that compute threads must wait for a CPU before another's CPU time counts as harm.
MIN_WAIT = 0.08
#: CPU seconds per second of other programs on the engine's cores from which they are named.
MIN_FOREIGN = 0.10
#: CPU seconds per second of the HTTP process from which it counts as a rival of the engine.
MIN_HTTP = 0.20
#: Parts of the time that a quota or a hypervisor may take before it is reported.
MIN_THROTTLED = 0.02
MIN_STOLEN = 0.05
#: The part of the hardware's clock below which a limit is reported.
MAX_CLOCK_CAP = 0.90


def processor_findings(interval: Interval) -> Iterator[Finding]:
    """The findings, in no order."""
    threads = list(_too_many_threads(interval))
    yield from threads
    if interval.contention.wait >= MIN_WAIT:
        # Threads that outnumber the CPUs wait for each other, without any other process.
        yield from _shared_cores(interval)
        yield from _foreign_process(interval, min_cpu=MIN_FOREIGN if not threads else 3 * MIN_FOREIGN)
    yield from _quota(interval)
    yield from _stolen(interval)
    yield from _clocks(interval)


def _too_many_threads(interval: Interval) -> Iterator[Finding]:
    facts, contention = interval.facts, interval.contention
    threads = max(facts.threads, default=0)
    allowed = len(interval.engine_cpus) or facts.cpus
    available = min(allowed, facts.cpus)
    quota = facts.quota if facts.quota is not None and facts.quota < available else None
    limit = max(1, int(quota)) if quota is not None else available
    if threads <= limit:
        return
    where = f"a quota of {quota:g} CPUs" if quota is not None else counted(limit, "CPU")
    sentence = f"{threads} threads compute on {where}"
    if contention.wait >= MIN_WAIT:
        sentence += (
            f": they waited for a CPU in {percent(contention.wait)} of their time, "
            f"and the kernel took it away {contention.involuntary:.0f} times a second"
        )
    best = facts.planned_threads or limit
    yield finding(
        "too_many_threads",
        f"{sentence}.",
        advice=f"Start the server with `--threads {best}`, or without the setting `threads`.",
    )


def _shared_cores(interval: Interval) -> Iterator[Finding]:
    used = interval.cpu(interval.http)
    if interval.http is None or used < MIN_HTTP:
        return
    shared = interval.http[1].allowed & interval.engine_cpus
    if not shared:
        return
    facts = interval.facts
    if facts.cores >= 4:
        advice = "Remove `--cpus`, `--http-cpus` and `--threads`: then the HTTP process has a core of its own."
    else:
        advice = (
            f"With {counted(facts.cores, 'core')} they have to share. Fewer streams, fewer logprobs or a machine with "
            "4 cores help."
        )
    yield finding(
        "shared_cores",
        f"The HTTP process had {cores(used)} of the engine's CPUs {cpulist.format_cpus(shared)}; "
        f"compute threads waited for a CPU in {percent(interval.contention.wait)} of their time.",
        advice=advice,
    )


def _foreign_process(interval: Interval, *, min_cpu: float) -> Iterator[Finding]:
    if (used := interval.foreign_cpu) < min_cpu:
        return
    named = interval.after.others
    if named:
        names = ", ".join(f"{other.name} (pid {other.pid}) {cores(other.cpu)}" for other in named[:3])
    else:
        names = "no process that is visible from here"
    yield finding(
        "foreign_process",
        f"Other programs had {cores(used)} of the engine's CPUs {cpulist.format_cpus(interval.engine_cpus)}: {names}. "
        f"Compute threads waited for a CPU in {percent(interval.contention.wait)} of their time.",
    )


def _quota(interval: Interval) -> Iterator[Finding]:
    earlier = {each.group: each for each in interval.before.machine.throttling}
    for each in interval.after.machine.throttling:
        if (before := earlier.get(each.group)) is None:
            continue
        stood = (each.seconds - before.seconds) / interval.seconds
        if stood < MIN_THROTTLED:
            continue
        periods, throttled = each.periods - before.periods, each.throttled - before.throttled
        quota = "CPU quota" if each.quota is None else f"CPU quota of {each.quota:g} CPUs"
        whole = max(1, int(each.quota or 1))
        yield finding(
            "cpu_quota",
            f"The control group's {quota} was used up in {throttled} of {periods} periods; "
            f"its CPUs stood still for {seconds(each.seconds - before.seconds)} in {seconds(interval.seconds)}.",
            advice=f"Raise the quota, or start the server with `--threads {whole}`.",
        )
        return


def _stolen(interval: Interval) -> Iterator[Finding]:
    if interval.busy > 0 and interval.stolen >= MIN_STOLEN:
        yield finding(
            "cpu_stolen",
            f"The hypervisor took {percent(interval.stolen)} of the time of CPUs "
            f"{cpulist.format_cpus(interval.engine_cpus)}.",
        )


def _clocks(interval: Interval) -> Iterator[Finding]:
    before = interval.before.machine.thermal
    hot = {cpu: count - before[cpu] for cpu, count in interval.after.machine.thermal.items() if cpu in before}
    hot = {cpu: count for cpu, count in hot.items() if count > 0}
    if hot:
        yield finding(
            "thermal_throttling",
            f"CPUs {cpulist.format_cpus(hot)} were slowed down {sum(hot.values())} times in "
            f"{seconds(interval.seconds)}, because they are too hot.",
        )
    capped = {cpu: part for cpu, part in interval.after.machine.clock_caps.items() if part < MAX_CLOCK_CAP}
    if capped:
        yield finding(
            "clock_capped",
            f"CPUs {cpulist.format_cpus(capped)} may have at most {percent(min(capped.values()))} of their clock.",
        )
