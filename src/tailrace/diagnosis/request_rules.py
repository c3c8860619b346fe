"""Rules about requests and their clients: queues, the KV cache, slow readers, and the HTTP process."""

from __future__ import annotations

from collections.abc import Iterator

from tailrace.diagnosis.catalogue import Finding, finding
from tailrace.diagnosis.sample import Interval
from tailrace.diagnosis.wording import cores, counted, percent, seconds, size

#: How long the oldest request must have waited before a queue is reported.
MIN_WAIT_SECONDS = 0.5
#: The same for a request whose prompt or grammar isn't checked yet.
MIN_INTAKE_SECONDS = 1.0
#: Part of the KV cache in use from which it counts as full.
FULL_KV = 0.90
#: Bytes that wait for a client beyond the system's own buffers.
MIN_BEHIND = 65_536
#: CPU seconds per second of the HTTP process, and lateness of its event loop, from which it is the limit.
MAX_HTTP_CPU = 0.85
MAX_LAG_SECONDS = 0.25
#: Seconds per second that the HTTP process may wait for a CPU: then its event loop is late without its fault.
MAX_HTTP_WAIT = 0.10
#: Part of the allowed file descriptors.
MAX_FILES = 0.85


def request_findings(interval: Interval) -> Iterator[Finding]:
    """The findings, in no order."""
    yield from _http_process(interval)
    yield from _files(interval)
    yield from _slow_readers(interval)
    yield from _waiting(interval)


def _http_process(interval: Interval) -> Iterator[Finding]:
    used, lag = interval.cpu(interval.http), interval.after.server.loop_lag
    late = f"; its event loop was up to {seconds(lag)} late" if lag >= MAX_LAG_SECONDS else ""
    if used >= MAX_HTTP_CPU:
        yield finding("http_process", f"The HTTP process uses {percent(used)} of the one core that it can use{late}.")
    elif late and interval.http_wait < MAX_HTTP_WAIT:
        yield finding("http_process", f"The HTTP process uses {cores(used)}{late}: a request held it up.")


def _files(interval: Interval) -> Iterator[Finding]:
    if interval.http is None:
        return
    process = interval.http[1]
    if process.max_files and process.files >= MAX_FILES * process.max_files:
        yield finding(
            "file_descriptors", f"The HTTP process has {process.files} of at most {process.max_files} files open."
        )


def _slow_readers(interval: Interval) -> Iterator[Finding]:
    before = {stream.identity: stream for stream in interval.before.server.slow_streams}
    # A burst isn't the client's fault: it has to be behind in both samples, and not to have caught up in between.
    slow = [
        stream
        for stream in interval.after.server.slow_streams
        if stream.identity in before and min(stream.behind, before[stream.identity].behind) >= MIN_BEHIND
    ]
    if not slow:
        return
    worst = max(slow, key=lambda stream: stream.behind)
    rate = max(0, worst.moved - before[worst.identity].moved) / interval.seconds
    others = f" (and {counted(len(slow) - 1, 'other stream')})" if len(slow) > 1 else ""
    yield finding(
        "slow_reader",
        f"The client {worst.client} is {size(worst.behind)} behind its stream{others}; it reads {size(rate)}/s.",
    )


def _waiting(interval: Interval) -> Iterator[Finding]:
    before, after = interval.before.server, interval.after.server
    # Sequences are also paused for other callers, with cells enough.
    preempted = interval.total("preemptions") * interval.seconds
    cells = sum(engine.kv_cells for engine in after.engines)
    used = max(sum(engine.kv_cells_used for engine in sample.engines) for sample in (before, after))
    full = cells > 0 and used >= FULL_KV * cells
    waiting = min(before.waiting, after.waiting)
    slots = after.slots or interval.facts.slots
    if full and (preempted >= 1 or (waiting and after.running < slots)):
        yield finding(
            "kv_full",
            f"The KV cache holds {used} of {cells} tokens; {counted(round(preempted), 'sequence')} paused in "
            f"{seconds(interval.seconds)}, and {counted(after.waiting, 'request')} waiting.",
        )
    if (refused := after.refused - before.refused) > 0:
        yield finding(
            "queue_full",
            f"{counted(refused, 'request')} refused in {seconds(interval.seconds)}, while {after.running} ran and "
            f"{after.waiting} waited.",
        )
    if not waiting:
        return
    unaccepted = min(before.unaccepted, after.unaccepted)
    if unaccepted and after.oldest_wait >= MIN_INTAKE_SECONDS and not _at_capacity(after.running, slots):
        compiling = interval.total("grammar_seconds")
        doing = f"; grammars compile in {percent(compiling)} of the time" if compiling >= 0.01 else ""
        yield finding(
            "intake",
            f"{counted(unaccepted, 'request')} waiting for their prompts to be tokenised or their grammars to be "
            f"compiled, the oldest for {seconds(after.oldest_wait)}{doing}.",
        )
    elif (
        interval.facts.disk_tier and not after.running and after.oldest_wait >= MIN_WAIT_SECONDS and interval.busy < 0.5
    ):
        yield finding(
            "disk_tier",
            f"{counted(waiting, 'request')} waiting for prefix states from the disk, the oldest for "
            f"{seconds(after.oldest_wait)}; tasks waited for disks in "
            f"{percent((interval.after.machine.disk_stall - interval.before.machine.disk_stall) / interval.seconds)} "
            "of the time.",
        )
    elif after.oldest_wait >= MIN_WAIT_SECONDS and _at_capacity(after.running, slots):
        yield finding(
            "queue",
            f"{counted(after.waiting, 'request')} waiting for one of {counted(slots, 'slot')}, the oldest for "
            f"{seconds(after.oldest_wait)}.",
        )


def _at_capacity(running: int, slots: int) -> bool:
    return running >= slots
