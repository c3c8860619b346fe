"""Processes that are killed, stopped and slowed: at the server's start, when it is idle, and under eight streams."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Literal

import pytest

from fault_figures import Record
from observed_requests import DIALECTS, Outcome, problems, send, send_all
from openai_wire import ask, metric
from server_memory import memory_bytes, open_files, processes, settled
from servers import ServerProcess, alive, serving, wait_for

#: Seconds in which the clients of a killed engine know of it.
KILLED = 2.0
#: Seconds in which the clients of a stopped engine know of it.
STOPPED = 15.0
#: Seconds after a fault in which the next request is answered.
RECOVERED = 15.0
#: Memory after a fault ÷ memory before it.
MEMORY = 1.05

Child = Literal["engine", "http"]
MODEL = ("--ctx", "2048", "--parallel", "8")


def pid_of(server: ServerProcess, child: Child) -> int:
    return server.engine if child == "engine" else server.http


def ready(port: int) -> bool:
    try:
        return ask(port, "GET", "/health/ready").status == 200
    except OSError:
        return False


def recover(server: ServerProcess, since: float, record: Record) -> None:
    """The next request, sent at once and again after a refusal, is answered within the bound."""
    while True:
        outcome = asyncio.run(send(server.port, "chat", max_tokens=2, stream=False, hung_seconds=RECOVERED))
        if outcome.accepted and outcome.complete:
            break
        assert time.monotonic() - since < 2 * RECOVERED, f"{outcome}\n{server.log[-2000:]}"
        time.sleep(0.05)
    record("next answer", time.monotonic() - since, RECOVERED, "s")


async def during_streams(server: ServerProcess, count: int, fault: Callable[[], Awaitable[float]]) -> list[Outcome]:
    """Clients of every dialect that stream one reply after the other, and the fault while they do. The outcomes of all
    requests that hadn't ended when the fault began, which is the time that ``fault`` returns.
    """
    faulty = asyncio.Event()
    outcomes: list[Outcome] = []

    async def client(number: int) -> None:
        while not faulty.is_set():
            outcomes.append(await send(server.port, DIALECTS[number % len(DIALECTS)], max_tokens=1500))

    tasks = [asyncio.create_task(client(number)) for number in range(count)]
    deadline = time.monotonic() + 60.0
    # Some may have ended a reply just now, and begin the next.
    while await asyncio.to_thread(metric, server.port, "vllm:num_requests_running") < count - 2:
        assert time.monotonic() < deadline, "the streams don't run"
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    faulty.set()
    begun = await fault()
    await asyncio.gather(*tasks)
    return [outcome for outcome in outcomes if outcome.ended >= begun]


@pytest.fixture(scope="module")
def shared() -> Iterator[ServerProcess]:
    """A server whose children die again and again; its memory is compared before and after each fault."""
    with serving(*MODEL) as server:
        # Caches and pools have their size after this.
        for _ in range(2):
            assert not problems(asyncio.run(send_all(server.port, 16, max_tokens=64)))
        yield server


@pytest.mark.parametrize("child", ["engine", "http"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_a_child_fails_under_eight_streams(
    shared: ServerProcess, child: Child, number: signal.Signals, record: Record
) -> None:
    before = memory_bytes(shared)
    victim = pid_of(shared, child)
    failed_at = 0.0

    async def fault() -> float:
        nonlocal failed_at
        failed_at = time.monotonic()
        os.kill(victim, number)
        return failed_at

    outcomes = asyncio.run(during_streams(shared, 8, fault))
    assert len(outcomes) >= 6, "the streams ended by themselves"
    assert not problems(outcomes, may_reset=child == "http")
    bound = STOPPED if number == signal.SIGSTOP else KILLED
    record("last client told", max(outcome.ended for outcome in outcomes) - failed_at, bound, "s")
    recover(shared, failed_at, record)
    wait_for("the victim's end", lambda: not alive(victim))
    assert pid_of(shared, child) != victim
    wait_for("readiness", lambda: ready(shared.port))
    # The new process has the sizes of a warm one after the same work.
    for _ in range(2):
        assert not problems(asyncio.run(send_all(shared.port, 16, max_tokens=64)))
    record("memory", settled(lambda: memory_bytes(shared), before * MEMORY) / before, MEMORY, "x")


@pytest.mark.parametrize("child", ["engine", "http"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_idle_child_fails(shared: ServerProcess, child: Child, number: signal.Signals, record: Record) -> None:
    victim = pid_of(shared, child)
    failed_at = time.monotonic()
    os.kill(victim, number)
    if number == signal.SIGSTOP:
        wait_for("the stopped child's end", lambda: not alive(victim))
        record("replaced", time.monotonic() - failed_at, STOPPED, "s")
    recover(shared, failed_at, record)
    wait_for("readiness", lambda: ready(shared.port))


@pytest.mark.parametrize("child", ["engine", "http"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_fails_at_the_start(child: Child, number: signal.Signals, record: Record) -> None:
    server = ServerProcess("--port", "0", *MODEL)
    try:
        module = "engine" if child == "engine" else "server"
        wait_for("the child", lambda: server.child(module) is not None)
        victim = server.child(module)
        assert victim is not None
        failed_at = time.monotonic()
        os.kill(victim, number)
        server.wait_ready()
        record("ready", time.monotonic() - failed_at, 2 * RECOVERED, "s")
        recover(server, time.monotonic(), record)
    finally:
        server.close()


@pytest.mark.parametrize("child", ["engine", "http"])
def test_a_slowed_child_is_left_alone(shared: ServerProcess, child: Child) -> None:
    """A child that is stopped for short times again and again is slow, not hung: nobody's reply may end for that."""
    victim = pid_of(shared, child)

    async def fault() -> float:
        begun = time.monotonic()
        for _ in range(8):
            os.kill(victim, signal.SIGSTOP)
            await asyncio.sleep(0.8)
            os.kill(victim, signal.SIGCONT)
            await asyncio.sleep(0.2)
        return begun

    outcomes = asyncio.run(during_streams(shared, 8, fault))
    assert not problems(outcomes)
    assert not [outcome for outcome in outcomes if outcome.failed or not outcome.accepted]
    assert pid_of(shared, child) == victim


def test_the_supervisor_is_killed(record: Record) -> None:
    with serving(*MODEL) as server:
        children = processes(server)[1:]

        killed_at = 0.0

        async def fault() -> float:
            nonlocal killed_at
            killed_at = time.monotonic()
            os.kill(server.pid, signal.SIGKILL)
            return killed_at

        outcomes = asyncio.run(during_streams(server, 8, fault))
        assert not problems(outcomes, may_reset=True)
        wait_for("the children's end", lambda: not any(alive(pid) for pid in children))
        record("all gone", time.monotonic() - killed_at, 2 * RECOVERED, "s")
        # The address is free at once.
        with serving("--port", str(server.port), *MODEL) as second:
            assert second.port == server.port


def test_the_supervisor_is_stopped_and_goes_on(shared: ServerProcess) -> None:
    """A pause of the whole group, as a machine's sleep is, ends no child."""
    group = processes(shared)
    for pid in group:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(25.0)
    for pid in group:
        os.kill(pid, signal.SIGCONT)
    time.sleep(3.0)
    assert processes(shared) == group
    assert not problems(asyncio.run(send_all(shared.port, 8, max_tokens=4)))


def test_requests_at_the_instant_of_an_engines_death(shared: ServerProcess) -> None:
    """What has sent no token yet waits for the new engine instead of failing."""
    for delay in (0.0, 0.001, 0.003, 0.01, 0.03):

        async def burst(delay: float = delay) -> list[Outcome]:
            victim = shared.engine
            early = [asyncio.create_task(send(shared.port, dialect, max_tokens=4)) for dialect in DIALECTS]
            await asyncio.sleep(delay)
            os.kill(victim, signal.SIGKILL)
            late = [asyncio.create_task(send(shared.port, dialect, max_tokens=4)) for dialect in DIALECTS]
            return await asyncio.gather(*early, *late)

        outcomes = asyncio.run(burst())
        assert not problems(outcomes)
        refused = [outcome for outcome in outcomes if outcome.status != 200]
        assert not refused, [(outcome.status, bytes(outcome.body)) for outcome in refused]
        unstarted = [outcome for outcome in outcomes[len(DIALECTS) :] if outcome.failed]
        assert not unstarted, [bytes(outcome.body) for outcome in unstarted]
        wait_for("readiness", lambda: ready(shared.port))


def test_no_files_stay_open(shared: ServerProcess) -> None:
    """After all faults before: the supervisor and the HTTP process hold no more files than a fresh server's."""
    with serving(*MODEL) as fresh:
        assert not problems(asyncio.run(send_all(fresh.port, 8, max_tokens=4)))
        for pid, other in ((shared.pid, fresh.pid), (shared.http, fresh.http), (shared.engine, fresh.engine)):
            bound = open_files(other)
            assert settled(lambda pid=pid: open_files(pid), bound) <= bound  # type: ignore[misc]  # mypy has no type for the default
