"""The ingress's entry: ``python -m tailrace.cluster.ingress.process [FILE]``.

Standard input has an ``IngressStart`` and orders, a line each (``orders``). With FILE, those are its lines, and
standard input isn't read: a static table of replicas.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import structlog
import uvloop

from tailrace.child import settle_memory, settle_signals, unblock_signals
from tailrace.cluster.ingress.app import IngressApp
from tailrace.cluster.ingress.metrics_endpoint import MetricsEndpoint
from tailrace.cluster.ingress.orders import (
    AddReplica,
    IngressStart,
    Listening,
    Order,
    RemoveReplica,
    ReplicaSeen,
    SetModels,
    Wanted,
)
from tailrace.cluster.ingress.parent import Parent, read_first_line
from tailrace.cluster.ingress.readiness import Readiness
from tailrace.cluster.ingress.replicas import Replicas
from tailrace.cluster.ingress.work import IngressWork
from tailrace.errors import ConfigurationError
from tailrace.observe import log_writer, logs
from tailrace.own_process import open_files
from tailrace.own_process.thread_name import name_thread
from tailrace.server.browsers.guard import BrowserGuard
from tailrace.server.http_server import HttpServer
from tailrace.server.keys.key_ring import KeyRing
from tailrace.server.memory_trim import settle_allocator
from tailrace.server.tls import certificate

#: Seconds between two reports of the models that requests wait for.
_WANTED_SECONDS = 1.0
#: Seconds in which connections bring a request after the address has been handed over.
_HAND_OVER_SECONDS = 1.0
#: Connections that the kernel holds until they are accepted.
_BACKLOG = 2_048


def main(arguments: list[str] | None = None) -> None:
    """Serve until the parent's ``Stop`` or a signal, then drain."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments:
        first, _, rest = Path(arguments[0]).read_bytes().partition(b"\n")
    else:
        first, rest = read_first_line(sys.stdin.fileno())
    try:
        start = msgspec.json.decode(first, type=IngressStart)
    except msgspec.MsgspecError as error:
        sys.exit(f"the first line is no IngressStart: {error}")
    if start.settings.cluster_secret is None:
        sys.exit("cluster_secret is not set: the replicas take requests of an ingress with their secret alone")
    name_thread("tailrace-ingr")
    settle_signals(ignore_hang_up=False)
    logs.configure("ingress", level=start.settings.log_level, form=start.settings.log_format)
    settle_allocator()
    open_files.raise_limit()
    try:
        uvloop.run(_Ingress(start, rest, has_parent=not arguments).serve())
    except (ConfigurationError, OSError) as error:
        structlog.get_logger().error("the ingress can't start", error=str(error))
        log_writer.standard_error().flush_last()
        sys.exit(1)
    log_writer.standard_error().flush_last()
    os._exit(0)  # As the HTTP process: nothing is left to be taken apart.


class _Ingress:
    """The parts of the process, and what connects them."""

    def __init__(self, start: IngressStart, rest: bytes, *, has_parent: bool) -> None:
        """``rest``: the lines behind the first one, as far as they have been read."""
        self._start = start
        self._rest = rest
        self._has_parent = has_parent
        self._server: HttpServer | None = None
        self._log = structlog.get_logger()

    async def serve(self) -> None:
        """Serve, then drain. Raises ConfigurationError, and OSError where the address can't be listened on."""
        start = self._start
        assert start.settings.cluster_secret is not None, "main has checked it"
        loop = asyncio.get_running_loop()
        self._parent = parent = Parent(sys.stdin.fileno(), sys.stdout.fileno())
        self._replicas = replicas = Replicas(
            start.settings.cluster_secret, self._on_phase, silence_seconds=start.silence_seconds
        )
        self._readiness = Readiness(replicas)
        work = IngressWork(start)
        keys = KeyRing(start.settings)
        keys = KeyRing(start.settings)
        keys.start()
        app = IngressApp(work, replicas, self._readiness, keys, BrowserGuard(start.settings))
        app.metrics = MetricsEndpoint(work, replicas, self._readiness)
        tls = certificate(start.settings)

        def reload() -> None:
            """Read keys and certificate again, as the HTTP process does at SIGHUP."""
            keys.reload()
            if tls is not None:
                tls.reload()

        listening = _listening_socket(start)
        server = self._server = HttpServer(app, listening, work, open_files.limit(), tls)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, reload)
        unblock_signals()
        loop.add_signal_handler(signal.SIGUSR2, self._hand_over)
        parent.on_order, parent.on_gone = self._on_order, self._on_gone
        settle_memory()
        parent.take(self._rest)
        if self._has_parent:
            parent.listen()
        port = listening.getsockname()[1]
        parent.report(Listening(port))
        self._log.info("listening", host=start.settings.host, port=port)
        wanted = loop.create_task(self._report_wanted())
        try:
            await server.serve()
        finally:
            wanted.cancel()
            replicas.close()
        self._log.info("stopped")

    def _on_order(self, order: Order) -> None:
        if isinstance(order, AddReplica):
            self._replicas.add(order)
        elif isinstance(order, RemoveReplica):
            self._replicas.remove(order.id)
        elif isinstance(order, SetModels):
            self._replicas.set_models(order.models)
        else:
            self._stop()

    def _on_phase(self, identity: str, phase: str) -> None:
        self._parent.report(ReplicaSeen(identity, phase))

    def _on_gone(self) -> None:
        """Say so for a while: load balancers learn it, and running replies end."""
        self._readiness.parent_gone = True
        self._log.error("the parent is gone: nothing manages the replicas", seconds=self._start.linger_seconds)
        asyncio.get_running_loop().call_later(self._start.linger_seconds, self._stop)

    def _on_signal(self, number: int) -> None:
        """Drain at the first signal, end at the second."""
        if self._server is not None and self._server.stopping:
            os._exit(128 + number)
        self._stop()

    def _hand_over(self) -> None:
        """Another process listens at the same address: leave new connections to it, then drain."""
        if self._server is not None and not self._server.stopping:
            self._log.info("another process takes over the address")
            self._server.stop_accepting()
            # Connections that have just been accepted bring their request first.
            asyncio.get_running_loop().call_later(_HAND_OVER_SECONDS, self._stop)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    async def _report_wanted(self) -> None:
        while True:
            await asyncio.sleep(_WANTED_SECONDS)
            for model, requests in self._replicas.waiting.items():
                self._parent.report(Wanted(model, requests))


def _listening_socket(start: IngressStart) -> socket.socket:
    """The socket that is listened on. Raises OSError."""
    if start.socket_fd >= 0:
        return socket.socket(fileno=start.socket_fd)
    family = socket.AF_INET6 if ":" in start.settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if start.reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((start.settings.host, start.settings.port))
    sock.listen(_BACKLOG)
    return sock


if __name__ == "__main__":
    main()
