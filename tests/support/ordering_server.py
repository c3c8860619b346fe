"""A supervisor whose HTTP process gives the orders that a test says, and hands on each report and each engine's Hello.

The stand-in for the HTTP process connects to the test's socket and relays: what the test sends goes to the supervisor
as it is. So a test sees exactly what an HTTP process would see.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from servers import PATIENCE
from tailrace.serving.control import FromServer
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings

#: The stand-in: relays between the test's socket and its end of the channel, and keeps the engines' connections.
_STAND_IN = """
import json, os, select, socket, sys, time
from tailrace import ipc
from tailrace.shared_memory.progress_page import Phase, ProgressPage
from tailrace.protocol import FromEngine, Hello
orders = json.load(sys.stdin)
page = ProgressPage(orders["progress_fd"])
page.phase, page.ready = Phase.SERVING, True
control = socket.socket(fileno=orders["control_fd"])
hub = socket.socket(fileno=orders["hub_fd"])
hub.setblocking(False)
test = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
test.connect(os.environ["TAILRACE_TEST_SOCKET"])
poll = select.poll()
for end in (control, hub, test):
    poll.register(end, select.POLLIN)
engines = {}
while True:
    for fd, _ in poll.poll(500):
        if fd == test.fileno():
            data = test.recv(1 << 20)
            if not data:
                sys.exit(0)
            if data == b"hang":
                time.sleep(3600)
            control.send(data)
        elif fd == control.fileno():
            test.send(control.recv(1 << 20))
        elif fd == hub.fileno():
            connection = ipc.take_connection(hub)
            engines[connection.fileno()] = connection, ipc.FrameDecoder(FromEngine)
            poll.register(connection, select.POLLIN)
        else:
            connection, decoder = engines[fd]
            data = connection.recv(65536)
            if not data:
                poll.unregister(connection)
                continue
            for message in decoder.feed(data):
                if isinstance(message, Hello):
                    test.send(json.dumps({"type": "hello", "name": message.name, "pid": message.pid}).encode())
    page.beat(time.monotonic())
"""
_SUPERVISOR = """
import sys
import msgspec
from tailrace.observe import logs
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings
from tailrace.supervisor import Supervisor, child_process

logs.configure("supervisor", level="info", form="json")
real = child_process.subprocess.Popen
def start(command, **options):
    stand_in = "tailrace.server.process" in command
    return real([command[0], "-c", {stand_in!r}] if stand_in else command, **options)
child_process.subprocess.Popen = start
settings = msgspec.json.decode({settings!r}, type=Settings)
models = msgspec.json.decode({models!r}, type=tuple[ModelSpec, ...])
sys.exit(Supervisor(settings, models).run())
"""


class OrderingServer:
    """See the module. ``news`` has what the HTTP process has heard and ``expect`` hasn't taken yet."""

    def __init__(
        self, models: tuple[ModelSpec, ...], settings: Settings, environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tailrace-test-")
        self._log = Path(self._folder.name) / "log"
        address = str(Path(self._folder.name) / "orders")
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(address)
        self._listening.listen()
        self._listening.settimeout(PATIENCE)
        code = _SUPERVISOR.format(
            stand_in=_STAND_IN, settings=msgspec.json.encode(settings), models=msgspec.json.encode(models)
        )
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")},
                    **(environment or {}),
                    "TAILRACE_TEST_SOCKET": address,
                    "TMPDIR": self._folder.name,
                    "XDG_STATE_HOME": self._folder.name,
                },
            )
        self.news: list[dict[str, Any]] = []
        self._engines: set[int] = set()  #: processes of which a Hello was heard
        self._stand_in: socket.socket | None = None
        self.meet()

    @property
    def log(self) -> str:
        """What all processes have logged."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def standby(self) -> int | None:
        """The process that waits for the next model: it has connections to no HTTP process yet."""
        shown = subprocess.run(["ps", "-axwwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
        rows = (line.split(None, 2) for line in shown.stdout.splitlines())
        waiting = [
            int(pid) for pid, parent, command in rows if int(parent) == self.process.pid and "imports_" in command
        ]
        return next((pid for pid in reversed(waiting) if pid not in self._engines), None)

    def meet(self) -> None:
        """Wait for a new stand-in, and forget what the last one heard."""
        if self._stand_in is not None:
            self._stand_in.close()
        self._stand_in, _ = self._listening.accept()
        self.news.clear()

    def send(self, order: FromServer) -> None:
        """Have the HTTP process send the order."""
        self.send_raw(msgspec.json.encode(order))

    def send_raw(self, data: bytes) -> None:
        """Have it send these bytes; ``hang`` makes it read nothing more."""
        assert self._stand_in is not None
        self._stand_in.send(data)

    def expect(self, kind: str, **fields: object) -> dict[str, Any]:
        """The next news of this kind with these fields; others stay in ``news``. Fails after a while."""
        while True:
            for place, found in enumerate(self.news):
                if found["type"] == kind and all(found.get(name) == value for name, value in fields.items()):
                    return self.news.pop(place)
            assert self._stand_in is not None
            ready, _, _ = select.select([self._stand_in], [], [], PATIENCE)
            assert ready, f"waited for {kind} {fields}, have {self.news}:\n{self.log}"
            data = self._stand_in.recv(1 << 20)
            assert data, f"the HTTP process has gone:\n{self.log}"
            news = json.loads(data)
            self.news.append(news)
            if news["type"] == "hello":
                self._engines.add(news["pid"])

    def stop(self) -> int:
        """Ask the supervisor to stop; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Let go of everything."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._stand_in is not None:
            self._stand_in.close()
        self._listening.close()
        self._folder.cleanup()


@contextlib.contextmanager
def ordering(
    *names: str, settings: Settings | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[OrderingServer]:
    """A server of scripted models with these names, none of which is loaded at the start."""
    server = OrderingServer(specs(*names), settings or Settings(backend="fake", port=0, drain_seconds=0), environment)
    try:
        yield server
    finally:
        server.close()


def specs(*names: str) -> tuple[ModelSpec, ...]:
    """Scripted models."""
    return tuple(
        ModelSpec(name=name, path=None, settings=Settings(backend="fake", model=name, parallel=1)) for name in names
    )
