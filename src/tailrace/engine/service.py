"""The engine process's work: load the model, connect, run the loop, and again when the HTTP process comes back."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from tailrace import ipc
from tailrace.child import Start, settle_memory, settle_on
from tailrace.engine.backends.base import Backend
from tailrace.engine.intake import Intake
from tailrace.engine.load import load_backend, load_draft, make_loop
from tailrace.engine.structured.grammar_compiler import GrammarCompiler
from tailrace.engine.tokenising.tokenizer import Tokenizer
from tailrace.errors import ConfigurationError
from tailrace.machine import cpulist
from tailrace.machine.applied_placement import (
    format_memory,
    is_placement_required,
    placement_differences,
    read_applied_placement,
)
from tailrace.machine.binding import bound_cpus
from tailrace.protocol import PROTOCOL_VERSION, Hello, ToEngine

#: How long the engine looks for an HTTP process before it gives up: the supervisor restarts a dead one within seconds.
_CONNECT_SECONDS = 60.0


def serve(start: Start) -> None:
    """Never returns. Raises ModelError and ConfigurationError when the model can't be loaded, OSError when no HTTP
    process comes.
    """
    path = Path(start.model_path) if start.model_path is not None else None
    replicas = start.plan.replicas
    backend = load_backend(path, start.settings, replicas[start.replica], replicas=len(replicas))
    draft = load_draft(backend, start.settings, replicas[start.replica], replicas=len(replicas))
    _check(start)
    compiler = GrammarCompiler(backend)
    tokenizer = Tokenizer(backend)
    settle_memory()
    cpus = replicas[start.replica].cpus or bound_cpus()
    while True:
        _connect(start, backend, draft, path, compiler, tokenizer, cpus)
        structlog.get_logger().debug("the HTTP process has gone; waiting for it")


def _check(start: Start) -> None:
    """See what is in force of the plan. Raises ConfigurationError when something that was asked for isn't."""
    found = read_applied_placement()
    if found is None:
        return
    log = structlog.get_logger()
    log.info(
        "in force",
        replica=start.replica,
        threads=len(found.threads),
        cpus=cpulist.format_cpus(found.cpus),
        memory=format_memory(found.memory),
    )
    for difference in placement_differences(start.plan.replicas[start.replica], found):
        if is_placement_required(start.settings):
            raise ConfigurationError(f"what is set isn't in force: {difference}")
        log.warning("the machine's plan isn't in force", difference=difference)


def _connect(
    start: Start,
    backend: Backend,
    draft: Backend | None,
    model: Path | None,
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    cpus: frozenset[int],
) -> None:
    """One connection's life. Every sequence of it ends with it. ``cpus``: where the process's threads may run."""
    # This thread may have a CPU of its own by now, from its pool or from below. Threads that it makes would inherit it.
    own = bound_cpus()
    settle_on(cpus)
    channel: ipc.Channel[ToEngine] = ipc.Channel(ipc.connect(Path(start.socket_path), _CONNECT_SECONDS), ToEngine)
    channel.send(
        Hello(
            protocol=PROTOCOL_VERSION,
            pid=os.getpid(),
            replica=start.replica,
            model=backend.info,
            vocabulary=backend.vocabulary,
        )
    )
    backend.reset()
    loop = make_loop(backend, start.settings, model, cpus, draft)
    intake = Intake(channel, backend, loop.inbox, compiler, tokenizer)
    intake.start()
    settle_on(start.plan.replicas[start.replica].main or own)
    try:
        loop.run(channel.send)
    except OSError as error:
        structlog.get_logger().warning("connection to the HTTP process broke", error=str(error))
    finally:
        channel.close()
        intake.join()
        loop.close()
