"""Starts the engines and the HTTP process, keeps them alive, and stops them.

It owns the listening sockets, so that neither process's death closes the door; it forwards signals; it waits without
polling. A child that dies is started again, later each time it dies soon after; one that says that its settings can't
work (exit status 78) ends everything.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import msgspec
import structlog

from tailrace import ipc
from tailrace.child import EXIT_CONFIGURATION, Start
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.gpu import build_backends, offloads, read_gpus
from tailrace.machine.plan import MachinePlan, ModelNeeds
from tailrace.machine.planner import make_plan
from tailrace.machine.running_servers import SOCKET, ServerState, write_state
from tailrace.machine.topology import read_topology
from tailrace.models.model_header import read_facts
from tailrace.models.shards import total_bytes
from tailrace.settings import Settings

#: Seconds before a dead child is started again: the first time at once, then longer while it keeps dying.
_BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
#: After this lifetime a child's earlier failures no longer count.
_HEALTHY_SECONDS = 60.0
#: Seconds that a child may take to stop beyond the drain time.
_STOP_GRACE = 5.0


@dataclass
class _Child:
    """One supervised process."""

    name: str
    module: str
    fds: tuple[int, ...] = ()
    replica: int = 0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0


@dataclass(frozen=True)
class _Exited:
    child: _Child
    status: int


@dataclass(frozen=True)
class _Restart:
    child: _Child


@dataclass(frozen=True)
class _Signalled:
    number: int


@dataclass
class Supervisor:
    """Runs one model. ``model_path`` is None with the fake backend."""

    settings: Settings
    model_name: str
    model_path: Path | None
    _events: queue.SimpleQueue[_Exited | _Restart | _Signalled] = field(default_factory=queue.SimpleQueue)
    _stopping: bool = False
    _folder: Path | None = None

    def run(self) -> int:
        """Serve until a signal says stop; the exit status. Raises ConfigurationError when the address can't be had, or
        the machine has too little memory for the settings.
        """
        log = structlog.get_logger()
        plan = self._plan()
        http = _listen(self.settings.host, self.settings.port)
        self._port = http.getsockname()[1]
        self._folder = folder = Path(tempfile.mkdtemp(prefix="tailrace-"))  # Mode 0700: no other user can connect.
        unix = ipc.listen(folder / SOCKET)
        engines = [
            _Child(
                "engine" if len(plan.replicas) == 1 else f"engine {number}", "tailrace.engine.process", replica=number
            )
            for number in range(len(plan.replicas))
        ]
        server = _Child("http", "tailrace.server.process", (http.fileno(), unix.fileno()))
        self._children = (server, *engines)
        self._orders = Start(
            settings=self.settings,
            plan=plan,
            parent=os.getpid(),
            model_name=self.model_name,
            model_path=str(self.model_path) if self.model_path is not None else None,
            socket_path=str(folder / SOCKET),
            http_fd=http.fileno(),
            ipc_fd=unix.fileno(),
        )
        previous = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for child in self._children:
                self._start(child)
            return self._watch(log)
        finally:
            self._stop(server, self.settings.drain_seconds + _STOP_GRACE)
            for engine in engines:
                self._stop(engine, _STOP_GRACE)
            for number, handler in previous.items():
                signal.signal(number, handler)
            http.close()
            unix.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _plan(self) -> MachinePlan:
        """Raises ConfigurationError when a setting can't work on this machine."""
        try:
            needs = None if self.model_path is None else model_needs(self.model_path, self.settings)
        except ModelError:
            needs = None  # The engine reports what is wrong with a file that can't be loaded.
        offload = self.model_path is not None and offloads(read_gpus(), build_backends())
        return make_plan(read_topology(), self.settings, needs, offload=offload)

    def _watch(self, log: structlog.typing.FilteringBoundLogger) -> int:
        while True:
            event = self._events.get()
            if isinstance(event, _Signalled):
                log.info("stopping", signal=signal.Signals(event.number).name)
                self._stopping = True
                return 0
            if isinstance(event, _Restart):
                self._start(event.child)
                continue
            child, status = event.child, event.status
            if status == EXIT_CONFIGURATION:
                return EXIT_CONFIGURATION
            lived = time.monotonic() - child.started
            child.failures = 1 if lived >= _HEALTHY_SECONDS else child.failures + 1
            delay = _BACKOFF[min(child.failures - 1, len(_BACKOFF) - 1)]
            log.error(f"the {child.name} process died", status=_status(status), lived=round(lived, 1), restart_in=delay)
            timer = threading.Timer(delay, self._events.put, (_Restart(child),))
            timer.daemon = True  # Python waits for other threads at its end: a stop would take as long as the delay.
            timer.start()

    def _start(self, child: _Child) -> None:
        if self._stopping:
            return
        again = child.process is not None
        child.process = subprocess.Popen(
            [sys.executable, "-m", child.module],
            stdin=subprocess.PIPE,
            pass_fds=child.fds,
            # A terminal's Ctrl-C goes to the supervisor alone, which then stops the children in order.
            process_group=0,
        )
        child.started = time.monotonic()
        assert child.process.stdin is not None
        try:
            orders = msgspec.structs.replace(self._orders, announce=not again, replica=child.replica)
            child.process.stdin.write(msgspec.json.encode(orders))
            child.process.stdin.close()
        except BrokenPipeError:
            pass  # It died at once: the waiter below reports it.
        threading.Thread(target=self._wait, args=(child, child.process), daemon=True).start()
        self._leave_state()

    def _leave_state(self) -> None:
        """For ``tailrace doctor``."""
        assert self._folder is not None
        http, *engines = (None if child.process is None else child.process.pid for child in self._children)
        state = ServerState(
            plan=self._orders.plan,
            model=self.model_name,
            port=self._port,
            supervisor=os.getpid(),
            http=http,
            engines=tuple(engines),
            pools=self.model_path is not None,
        )
        write_state(self._folder, state)

    def _wait(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        if not self._stopping:
            self._events.put(_Exited(child, status))

    def _stop(self, child: _Child, grace: float) -> None:
        self._stopping = True
        process = child.process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            structlog.get_logger().warning(f"the {child.name} process didn't stop in time; killing it")
            process.kill()
            process.wait()

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if self._stopping:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
            os._exit(128 + number)  # Asked a second time: the kernel takes the children along.
        self._events.put(_Signalled(number))


def model_needs(path: Path, settings: Settings) -> ModelNeeds:
    """What a replica that serves the file takes, with a KV cache for one whole context. Raises ModelError."""
    facts = read_facts(path)
    tokens = settings.kv_tokens or settings.ctx or facts.context or 0
    return ModelNeeds(weights=total_bytes(path), kv=tokens * (facts.kv_bytes_per_token or 0))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {host}:{port}: {error.strerror or error}. "
            "Is another server running there? --port 0 picks a free port."
        ) from error
    return sock


def _status(status: int) -> str:
    """An exit status as the log shows it; a negative one is the signal that has ended the process."""
    if status >= 0:
        return str(status)
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"  # Python has no names for most real-time signals.
