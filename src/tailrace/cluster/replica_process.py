"""The process of one replica: ``tailrace serve`` for one model, as it is on one machine, and its life.

Its settings, secrets among them, go to it in a file without a name, so that no argument list and no environment has
them. It ends with this process, however this one ends. Ray isn't imported here.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import IO, Any

import msgspec
import structlog

from tailrace.cluster.settings_file import settings_file
from tailrace.errors import TailraceError
from tailrace.settings import FIELDS

_LISTENS = re.compile(r"tailrace listens on https?://\S+:(\d+)\s*$")
#: Ray sets it to the cores of an actor. The server plans its threads itself.
_RAYS_OWN = ("OMP_NUM_THREADS",)
#: Seconds beyond the time for running replies in which a server has ended.
_END_SECONDS = 15.0
#: Seconds for the last lines of a log, once the process has ended.
_LOG_SECONDS = 5.0
#: Lines of the log that say why a process has ended.
_LAST_LINES = 3


class ReplicaEnded(TailraceError):
    """The replica's process has ended by itself."""


class ReplicaOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica serves. ``settings`` and ``section`` as a settings file has them."""

    model: str
    settings: dict[str, Any]
    section: dict[str, Any]
    host: str
    secret: str  #: the setting ``cluster_secret``
    drain_seconds: float


class ReplicaProcess:
    """See the module. One thread starts the process and waits for its end, because the tie is to a thread."""

    def __init__(self, orders: ReplicaOrders) -> None:
        self._orders = orders
        self._process: subprocess.Popen[str] | None = None
        self._started = threading.Event()
        self._known = threading.Event()  #: the port is known, or the process has ended
        self._ended = threading.Event()
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.port = 0
        self._thread = threading.Thread(target=self._live, name="replica process", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The supervisor's process; 0 before it is started."""
        return self._process.pid if self._process is not None else 0

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, by whatever cause."""
        return self._ended.is_set()

    def wait_ready(self) -> int:
        """Wait until the model is loaded; the port. Raises ReplicaEnded."""
        self._known.wait()
        if not self.port:
            raise ReplicaEnded(self.ending)
        return self.port

    @property
    def ending(self) -> str:
        """The words for an end that nothing has asked for."""
        status = None if self._process is None else self._process.returncode
        lines = " ".join(line.strip() for line in self._last_lines)
        return f"the server of {self._orders.model} has ended with status {status}: {lines}"

    def drain(self) -> None:
        """Have running replies end within their time, then the process. Returns when it has ended."""
        self._started.wait(_END_SECONDS)
        if self._process is None:
            return
        self._send(signal.SIGTERM)
        if not self._ended.wait(self._orders.drain_seconds + _END_SECONDS):
            structlog.get_logger().warning("the replica didn't end in time; killing it", model=self._orders.model)
            self._send(signal.SIGKILL)
            self._ended.wait()

    def _send(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _live(self) -> None:
        try:
            with _open_settings(self._orders) as file:
                command = (sys.executable, "-P", "-m", "tailrace.cli.app", "serve", "--config", f"/dev/fd/{file}")
                self._process = subprocess.Popen(
                    (sys.executable, "-P", "-m", "tailrace.cluster.tied_command", str(os.getpid()), *command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=(file,),
                    text=True,
                    errors="replace",
                    env=_environment(os.environ),
                )
            self._started.set()
            assert self._process.stdout is not None
            assert self._process.stderr is not None
            log = threading.Thread(target=self._pass_log, args=(self._process.stderr,), daemon=True)
            log.start()
            self._read(self._process.stdout)
            self._process.wait()
            log.join(_LOG_SECONDS)
            self._process.stdout.close()
            if not log.is_alive():
                self._process.stderr.close()
        finally:
            self._ended.set()
            self._started.set()
            self._known.set()

    def _pass_log(self, log: IO[str]) -> None:
        """Pass the log on to this process's own, and keep its last lines for the reason of an end."""
        for line in log:
            self._last_lines.append(line)
            sys.stderr.write(line)
            sys.stderr.flush()

    def _read(self, output: IO[str]) -> None:
        """Find the port. What the server prints for people at a terminal isn't shown."""
        for line in output:
            if not self.port and (found := _LISTENS.search(line)):
                self.port = int(found[1])
                self._known.set()


@contextlib.contextmanager
def _open_settings(orders: ReplicaOrders) -> Iterator[int]:
    """The settings in a file that has no name. Yields its descriptor, at the file's beginning."""
    own = {
        "host": orders.host,
        "port": 0,
        "drain_seconds": orders.drain_seconds,
        "cluster_secret": orders.secret,
        "tls_cert": None,  # Clients' TLS ends at the ingress.
        "tls_key": None,
    }
    text = settings_file({**orders.settings, **own}, orders.model, orders.section)
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file.fileno()


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Without settings of the node's user: the cluster's file has all of them."""
    left_out = {*_RAYS_OWN, *(f"TAILRACE_{name.upper()}" for name in FIELDS)}
    return {name: value for name, value in environment.items() if name not in left_out}
