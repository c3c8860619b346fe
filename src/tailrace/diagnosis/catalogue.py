"""All findings that there are: the meaning, the advice and the usual severity of each code.

docs/diagnosis.md has the same table; a test compares them. The order is that of a report within one severity: causes
come before their effects.
"""

from __future__ import annotations

from typing import Literal

import msgspec

#: ``critical``: requests aren't answered. ``warning``: it costs speed, and can be changed. ``info``: this is what
#: limits a healthy server.
Severity = Literal["critical", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")


class Entry(msgspec.Struct, frozen=True):
    """One code of the catalogue."""

    severity: Severity
    meaning: str
    advice: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that limits this server, or may soon."""

    code: str  #: a key of ``CATALOGUE``
    severity: Severity
    sentence: str  #: with the figures
    advice: str  #: empty where nothing has to be done


CATALOGUE: dict[str, Entry] = {
    "engine_stopped": Entry(
        "critical",
        "an engine's process is stopped by a signal or a debugger",
        "Continue it with `kill -CONT PID`. The supervisor replaces an engine that hangs.",
    ),
    "engine_stalled": Entry(
        "critical",
        "an engine sends no sign of life, and its process isn't stopped",
        "Look into the server's log. The supervisor replaces an engine that hangs.",
    ),
    "loading": Entry(
        "critical",
        "no engine is connected: it loads the model, or it is being restarted",
        "Wait for the model. If this lasts, the server's log has the reason.",
    ),
    "replica_missing": Entry(
        "warning",
        "one of several engines isn't connected: it loads the model, or it is being restarted",
        "Wait for it. If this lasts, the server's log has the reason.",
    ),
    "engine_replaced": Entry(
        "warning",
        "an engine has just been started in place of another one",
        "Look into the server's log for the reason.",
    ),
    "too_many_threads": Entry(
        "warning",
        "more compute threads than CPUs: each step waits for threads that have no CPU",
        "Start the server with fewer threads: without `--threads` it takes one for each physical core.",
    ),
    "shared_cores": Entry(
        "warning",
        "the HTTP process takes CPU time from the engine's threads, on the same cores",
        "Give them separate cores with `--http-cpus` and `--cpus`, or lower `--threads` by one.",
    ),
    "foreign_process": Entry(
        "warning",
        "another program runs on the engine's cores, and compute threads wait for it",
        "Stop it, lower its priority, or keep it from the engine's cores with `taskset` or a cpuset.",
    ),
    "cpu_quota": Entry(
        "warning",
        "the control group's CPU quota stops the server for parts of each period",
        "Raise the quota (`--cpus` of a container), or use no more threads than the quota has whole CPUs.",
    ),
    "cpu_stolen": Entry(
        "warning",
        "the hypervisor gives the engine's CPUs to other virtual machines",
        "Ask for dedicated CPUs, or use fewer threads: a step waits for the thread whose CPU is away.",
    ),
    "thermal_throttling": Entry(
        "warning",
        "the hardware lowers the clock because a CPU is too hot",
        "Improve the cooling. Fewer threads make less heat.",
    ),
    "clock_capped": Entry(
        "warning",
        "the system doesn't let the CPUs reach the clock that they could have",
        "Raise the limit with `cpupower frequency-set --max`, or look for a power saving mode.",
    ),
    "weights_evicted": Entry(
        "warning",
        "the engine reads pages from a disk while it computes: its memory was taken away",
        "Free memory, or serve a smaller model, a smaller `--ctx` or a smaller `--keep-mb`.",
    ),
    "swapping": Entry(
        "warning",
        "memory of the server is in swap, and pages are read back from it",
        "Free memory, or serve a smaller model or a smaller `--keep-mb`. `swapoff -a` shows early what doesn't fit.",
    ),
    "memory_pressure": Entry(
        "warning",
        "tasks of this machine wait for memory",
        "Stop programs that need memory, or lower `--keep-mb`, `--kv-tokens` or `--ctx`.",
    ),
    "far_memory": Entry(
        "warning",
        "a part of an engine's memory is on another NUMA node than its threads",
        "Let tailrace plan a replica for each node (no `--numa off`), or bind the engine to one node with `--cpus`.",
    ),
    "slow_kernels": Entry(
        "warning",
        "the matrix products are computed by slower code than this CPU allows",
        "Remove the setting `kernels`. `tailrace doctor` shows why a library can't be used.",
    ),
    "grammar_masks": Entry(
        "warning",
        "token masks of replies with a grammar aren't computed in time: steps wait for them, or these replies sit out",
        "Simplify the schema or grammar: ambiguous rules and large alternatives make masks slow.",
    ),
    "step_overhead": Entry(
        "warning",
        "a large part of a step isn't the model's pass",
        "Ask for fewer logprobs, and use fewer penalties and samplers on large vocabularies.",
    ),
    "http_process": Entry(
        "warning",
        "the HTTP process is the limit: it has no CPU time left, or its event loop is late",
        "Send fewer, larger events (fewer logprobs), compress less, or spread clients over several servers.",
    ),
    "slow_reader": Entry(
        "warning",
        "a client reads its stream more slowly than the engine writes it",
        "Look at that client or its network. Other clients aren't delayed; one too far behind is stopped.",
    ),
    "file_descriptors": Entry(
        "warning",
        "almost all of the HTTP process's file descriptors are in use: new connections will fail",
        "Raise the limit (`ulimit -n`, `LimitNOFILE` of systemd), or close idle connections.",
    ),
    "kv_full": Entry(
        "warning",
        "the KV cache is full: sequences are paused, and computed again later",
        "Raise `--kv-tokens` if there is memory, or lower `--parallel` or the requests' lengths.",
    ),
    "disk_tier": Entry(
        "warning",
        "requests wait while prefix states are read from a disk",
        "Use a faster disk, or keep more in memory with `--keep-mb`, or switch the disk off with `--keep-disk-mb 0`.",
    ),
    "intake": Entry(
        "warning",
        "requests wait until their prompts are tokenised or their grammars are compiled",
        "Send the same grammars again rather than new ones: compiled grammars are remembered.",
    ),
    "queue_full": Entry(
        "warning",
        "requests are refused with 429 because too many wait already",
        "Send fewer requests at the same time, raise `--queue-requests` or `--queue-tokens`, or add a server.",
    ),
    "queue": Entry(
        "warning",
        "more requests than slots: requests wait for a slot",
        "Raise `--parallel` where throughput still grows with it (`tailrace bench`), or add a server.",
    ),
    "memory_bandwidth": Entry(
        "info",
        "reading the weights limits each step: memory gives no more bytes per second",
        "More requests at the same time share each read. A smaller weight format is faster; more threads aren't.",
    ),
    "compute": Entry(
        "info",
        "arithmetic limits each step: the engine computes all the time, and memory could give more",
        "Faster or more cores help, and weights in a format that is faster here (`tailrace tune`).",
    ),
    "engine": Entry(
        "info",
        "the engine computes all the time; whether arithmetic or memory limits it isn't known",
        "The memory bandwidth is measured once, when `/stats` is read while server and machine are idle.",
    ),
    "spare": Entry(
        "info",
        "the server has spare capacity: the engine waits for requests in a part of the time",
        "",
    ),
    "idle": Entry("info", "no request runs or waits", ""),
}


def finding(code: str, sentence: str, *, advice: str | None = None) -> Finding:
    """A finding with the catalogue's severity, and its advice unless there is a more exact one."""
    entry = CATALOGUE[code]
    return Finding(
        code=code, severity=entry.severity, sentence=sentence, advice=entry.advice if advice is None else advice
    )
