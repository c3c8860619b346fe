"""The engine process's work: load the model, connect, run the loop, again when the HTTP process is replaced, and save
the prefix states at the end.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog

from tailrace import ipc
from tailrace.chat.template_trial import find_defect
from tailrace.child import Start, settle_memory, settle_on
from tailrace.engine.core_share import CoreShare
from tailrace.engine.intake import Intake
from tailrace.engine.kv_cache.prefix_cache import PrefixCache
from tailrace.engine.load import load_backend, load_draft, make_loop
from tailrace.engine.loop import EngineLoop
from tailrace.engine.state_identity import prefix_identity
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
from tailrace.shared_memory.cores_page import CoresPage, cores_of
from tailrace.shared_memory.progress_page import Phase, ProgressPage

#: Seconds for saving prefix states at the end. The supervisor kills a process that takes longer than 5 s to stop.
_SAVE_SECONDS = 4.0


class EngineService:
    """A loaded model, served to one HTTP process after the other."""

    def __init__(self, start: Start, page: ProgressPage) -> None:
        """Load the model. ``page``: where the supervisor reads this process's progress.

        Raises ModelError and ConfigurationError when the model can't be served as the settings say.
        """
        replicas = start.plan.replicas
        self._start = start
        self._hub = socket.socket(fileno=start.hub_fd)
        self._page = page
        page.phase = Phase.LOADING
        self._replica = replicas[start.replica]
        self._model = Path(start.model_path) if start.model_path is not None else None
        # With several models, others may load at the same time.
        alone = start.cores_fd < 0
        self._backend = load_backend(
            self._model,
            start.settings,
            self._replica,
            replicas=len(replicas),
            page=page,
            shows_bar=alone,
            first=not start.has_served,
        )
        self._draft = load_draft(
            self._backend,
            start.settings,
            self._replica,
            replicas=len(replicas),
            page=page,
            first=not start.has_served,
        )
        check_placement(start)
        self._try_template()
        self._identify_prefixes()
        self._compiler = GrammarCompiler(self._backend)
        self._tokenizer = Tokenizer(self._backend)
        settle_memory()
        self._cpus = self._replica.cpus or bound_cpus()  #: where the process's threads may run
        self._core_share = self._make_core_share()
        self._stopping = False
        self._loop: EngineLoop | None = None
        self._cache: PrefixCache | None = None  #: of the last connection's loop

    def _make_core_share(self) -> CoreShare | None:
        """This engine's part of the cores; None where no other engine computes, or the settings name its CPUs."""
        start = self._start
        if start.cores_fd < 0 or start.number < 0 or start.settings.cpus is not None:
            return None
        backends = [self._backend, *([] if self._draft is None else [self._draft])]
        return CoreShare(CoresPage(start.cores_fd), start.number, cores_of(self._replica.node), backends)

    def _try_template(self) -> None:
        """Find out whether the model's own chat template can be used. That of the settings was tried at the start."""
        info = self._backend.info
        if self._model is None or info.chat_template is None or self._start.settings.chat_template is not None:
            return
        defect = find_defect(
            info.chat_template,
            bos_token=info.bos_token,
            eos_token=info.eos_token,
            special_tokens=info.special_tokens.values(),
            remember=True,
        )
        if defect is not None:
            structlog.get_logger().warning("the model can't hold conversations", reason=defect)
            self._backend.info = msgspec.structs.replace(info, chat_template_defect=defect)

    def _identify_prefixes(self) -> None:
        """Have a replica of a cluster report its prefixes. Without an identity it is chosen by its load alone."""
        settings = self._start.settings
        if settings.cluster_secret is None or not self._backend.info.generates:
            return
        try:
            identity = prefix_identity(self._model, settings, self._backend)
        except OSError as error:
            structlog.get_logger().warning("the model's prefixes aren't reported", error=str(error))
            return
        self._backend.info = msgspec.structs.replace(self._backend.info, prefix_identity=identity)

    def run(self) -> NoReturn:
        """Serve until a SIGTERM, which ends the process once its prefix states are saved. Raises BackendError."""
        signal.signal(signal.SIGTERM, self._on_stop)
        while not self._stopping:
            self._serve_connection()
            if not self._stopping:
                structlog.get_logger().debug("the HTTP process has gone; waiting for it")
        self._save_states()
        # The kernel frees the memory faster than Python and llama.cpp would.
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the process has outlived its SIGTERM")

    def _on_stop(self, number: int, frame: object) -> None:
        """End the loop after its step. A second SIGTERM ends the process at once."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._stopping = True
        if self._loop is not None:
            self._loop.inbox.put(None)

    def _save_states(self) -> None:
        if self._cache is None:
            return
        begun = time.monotonic()
        count, size = self._cache.executor.save(begun + _SAVE_SECONDS)
        if count:
            seconds = round(time.monotonic() - begun, 2)
            structlog.get_logger().info("prefix states saved", states=count, mb=round(size / 1e6), seconds=seconds)

    def _serve_connection(self) -> None:
        """One connection, from its start to its end. All of its sequences end with it; the prefix cache stays."""
        start, backend = self._start, self._backend
        # This thread may be bound to a CPU of its own by now. Threads that it makes would inherit that.
        own_cpus = bound_cpus()
        settle_on(self._cpus)
        channel: ipc.Channel[ToEngine] = ipc.Channel(ipc.offer_connection(self._hub), ToEngine)
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            pid=os.getpid(),
            replica=start.replica,
            model=backend.info,
            vocabulary=backend.vocabulary,
            name=start.model_name,
        )
        try:
            channel.send(hello)
        except OSError:
            channel.close()  # The HTTP process has died meanwhile.
            return
        if self._cache is None:
            backend.reset()
        loop = make_loop(
            backend,
            start.settings,
            self._model,
            self._cpus,
            self._draft,
            self._page,
            self._cache,
            self._core_share,
        )
        self._loop, self._cache = loop, loop.cache
        loop.heartbeats.include(self._compiler.counters)
        if backend.info.generates:
            loop.when_quiet = self._compiler.prepare
        intake = Intake(channel, backend, loop.inbox, self._compiler, self._tokenizer)
        loop.helpers.append(intake)
        intake.start()
        settle_on(self._replica.main or own_cpus)
        self._page.phase = Phase.SERVING
        self._page.message = ""
        if self._stopping:
            loop.inbox.put(None)  # The signal came before there was a loop.
        try:
            loop.run(channel.send)
        except OSError as error:
            structlog.get_logger().warning("connection to the HTTP process broke", error=str(error))
        finally:
            # What follows may write to a disk.
            self._page.phase = Phase.LOADING
            channel.end()
            intake.join()
            channel.close()


def check_placement(start: Start) -> None:
    """Log where threads and memory are. Raises ConfigurationError where that isn't what the settings require."""
    found = read_applied_placement()
    if found is None:
        return
    log = structlog.get_logger()
    log.info(
        "placement",
        replica=start.replica,
        threads=len(found.threads),
        cpus=cpulist.format_cpus(found.cpus),
        memory=format_memory(found.memory),
    )
    for difference in placement_differences(start.plan.replicas[start.replica], found):
        if is_placement_required(start.settings):
            raise ConfigurationError(f"the settings aren't applied: {difference}")
        log.warning("the machine's plan isn't applied", difference=difference)
