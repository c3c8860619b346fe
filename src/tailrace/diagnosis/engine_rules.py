"""Rules about the engines: whether they live, what their steps are made of, and what limits the model's passes."""

from __future__ import annotations

from collections.abc import Iterator

from tailrace.diagnosis.catalogue import Finding, finding
from tailrace.diagnosis.process_sample import LOADING
from tailrace.diagnosis.sample import EngineInterval, Interval
from tailrace.diagnosis.wording import cores, counted, percent, seconds, size

#: The kernel's letters for stopped processes: by a signal, and by a debugger.
_STOPPED = ("T", "t")
#: Part of the time in which a busy engine computes. The rest is between two reports.
MIN_BUSY = 0.80
#: Part of the time below which an engine counts as idle where no request runs.
MAX_IDLE = 0.01
#: Part of the time from which embedding passes are worth a word.
MIN_EMBEDDING = 0.05
#: Bytes that steps read ÷ measured bandwidth, from which memory limits them.
MIN_BANDWIDTH = 0.60
#: Part of their time that compute threads may wait for a CPU: beyond it, rates say nothing about the hardware.
MAX_WAIT = 0.20
#: Parts of a step.
MIN_MASKS = 0.20
#: Replies that sit out for a late mask, per second.
MIN_LATE_MASKS = 0.5
MIN_OVERHEAD = 0.40

_PARTS = {
    "schedule_seconds": "planning the batch",
    "sample_seconds": "choosing tokens",
    "publish_seconds": "sending and accounting",
}


def engine_findings(interval: Interval) -> Iterator[Finding]:
    """The findings, in no order. There is always at least one."""
    problems = list(_life(interval))
    yield from problems
    yield from _kernels(interval)
    yield from _step_parts(interval)
    if not any(problem.severity == "critical" for problem in problems):
        yield _limit(interval)


def _life(interval: Interval) -> Iterator[Finding]:
    server, facts = interval.after.server, interval.facts
    loading = [process for process in interval.after.processes.values() if process.role == LOADING]
    yield from (_stopped("engine that loads", process.pid) for process in loading if process.state in _STOPPED)
    if not server.engines and not facts.replicas:
        return  # No model is loaded, and none is wanted.
    if not server.engines:
        uses = "".join(
            f"; process {process.pid} loads, with {cores(interval.cpu(interval.process(process.pid)))} and "
            f"{size(process.memory)} of memory"
            for process in loading
        )
        yield finding("loading", f"No engine is connected, {counted(server.waiting, 'request')} waiting{uses}.")
        return
    if len(server.engines) < facts.replicas and facts.models == 1:  # Of several models one may load.
        yield finding("replica_missing", f"{len(server.engines)} of {facts.replicas} engines are connected.")
    if (replaced := server.engine_starts - interval.before.server.engine_starts) and interval.before.server.engines:
        yield finding("engine_replaced", f"{counted(replaced, 'engine')} started again in {seconds(interval.seconds)}.")
    for engine in server.engines:
        process = interval.after.processes.get(engine.pid)
        name = engine.role(several=facts.replicas != 1)
        work = f"{counted(engine.running + engine.waiting, 'request')} depending on it"
        if process is not None and process.state in _STOPPED:
            yield _stopped(name, engine.pid, f"; it was last heard {seconds(engine.silent)} ago, with {work}")
        elif engine.stalled:
            doing = {"D": "waits for a disk", "R": "computes or spins", "S": "sleeps"}.get(
                process.state if process is not None else "", "is in an unknown state"
            )
            yield finding(
                "engine_stalled",
                f"The {name} has sent nothing for {seconds(engine.silent)}, with {work}; its main thread {doing}.",
            )


def _stopped(name: str, pid: int, more: str = "") -> Finding:
    return finding(
        "engine_stopped",
        f"The process {pid} of the {name} is stopped{more}.",
        advice=f"Continue it with `kill -CONT {pid}`. The supervisor replaces an engine that hangs.",
    )


def _kernels(interval: Interval) -> Iterator[Finding]:
    facts = interval.facts
    if not facts.fastest_kernels or facts.kernels == facts.fastest_kernels:
        return
    used = f"the kernels for {facts.kernels}" if facts.kernels else "llama.cpp's own kernels"
    why = f" ({facts.kernels_reason})" if facts.kernels_reason else ""
    yield finding("slow_kernels", f"The engine uses {used}{why}, but this CPU has {facts.fastest_kernels}.")


def _step_parts(interval: Interval) -> Iterator[Finding]:
    for engine in interval.engines:
        if engine.busy < 0.1:
            continue
        masks, late = engine.step_part("mask_wait_seconds"), engine.rate("late_masks")
        if masks >= MIN_MASKS or late >= MIN_LATE_MASKS:
            yield finding(
                "grammar_masks",
                f"Steps wait for grammars' masks in {percent(masks)} of their time, and {late:.1f} times a second a "
                "reply sits out because its mask is late.",
            )
            return
        parts = {what: engine.step_part(name) for name, what in _PARTS.items()}
        if (total := sum(parts.values())) >= MIN_OVERHEAD:
            what = max(parts, key=lambda each: parts[each])
            yield finding(
                "step_overhead",
                f"{percent(total)} of a step isn't the model's pass: {what} takes {percent(parts[what])}.",
            )
            return


def _limit(interval: Interval) -> Finding:
    """What limits the busiest engine, or that nothing does."""
    server = interval.after.server
    engine = max(interval.engines, key=lambda each: each.busy, default=None)
    if engine is None and server.running + server.waiting:
        return finding("engine", "The engine has just started; the next sample has its figures.", advice="")
    if engine is None or (engine.busy < MAX_IDLE and not server.running and not server.waiting):
        return finding("idle", "Nothing to do: the server is idle.")
    if not engine.seconds and server.running:
        lasting = seconds(max(each.after.silent for each in interval.engines))
        return finding("engine", f"A step of the engine has lasted {lasting} and goes on.", advice="")
    if engine.busy < MIN_BUSY:
        return finding(
            "spare",
            f"The engine computes in {percent(engine.busy)} of the time{_batch(engine)}: it waits for requests in "
            "the rest.",
        )
    facts = interval.facts
    prompts = engine.rate("prefill_tokens")
    made = f"{_batch(engine)}: {engine.rate('decode_tokens'):.0f} tokens/s"
    made += f" and {prompts:.0f} prompt tokens/s" if prompts >= 1 else ""
    read = engine.read_rate
    embedding = engine.rate("embedding_seconds")
    made += f", embeddings in {percent(embedding)} of the time" if embedding >= MIN_EMBEDDING else ""
    busy = f"The engine computes in {percent(engine.busy)} of the time{made}"
    if interval.contention.wait >= MAX_WAIT:
        return finding("engine", f"{busy}. Its threads wait for CPUs.", advice="Look at the other findings first.")
    if not read:
        return finding("engine", f"{busy}. How much memory its passes read isn't known.", advice="")
    if facts.bandwidth is None:
        return finding("engine", f"{busy}. It reads {size(read)}/s of memory; what memory can give isn't measured yet.")
    part = read / facts.bandwidth
    traffic = f"{size(read)}/s of weights and KV, {percent(part)} of the {size(facts.bandwidth)}/s that memory gives"
    if part >= MIN_BANDWIDTH:
        return finding("memory_bandwidth", f"{busy}. Its steps read {traffic}.")
    return finding("compute", f"{busy}. Its steps read {traffic}: arithmetic limits them more than memory.")


def _batch(engine: EngineInterval) -> str:
    return f", {engine.batch:.1f} sequences a step" if engine.batch else ""
