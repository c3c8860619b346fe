"""A PostgreSQL server for tests: Debian's, in a folder of its own, and databases on it."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg

from servers import wait_for

ROOT = Path(__file__).parents[2]
#: The password of its only user. The server takes any; tests look for it where it must not be.
PASSWORD = "pa55word-of-tests"
_USER = "tailrace"
#: Users that run it where the tests are root's: PostgreSQL refuses to be root.
_PLAIN_USERS = ("postgres", "nobody")
_UNPACKED = ROOT / ".postgresql"
#: It is thrown away, so nothing needs to reach the disk.
_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60")


def programs() -> Path:
    """The folder with ``postgres`` and ``initdb``: the newest there is."""
    found = [
        folder
        for root in (Path("/"), _UNPACKED)
        for folder in sorted(root.glob("usr/lib/postgresql/*/bin"), key=lambda path: int(path.parent.name))
        if (folder / "postgres").exists() and (folder / "initdb").exists()
    ]
    on_path = shutil.which("postgres")
    if not found and on_path is not None and shutil.which("initdb") is not None:
        found.append(Path(on_path).resolve().parent)
    assert found, "PostgreSQL is missing: python3 scripts/setup_postgres.py, or Debian's package postgresql"
    return found[-1]


class PostgresServer:
    """One server. ``stop`` and ``start`` play what happens to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = programs()
        self._prefix: list[str] = []
        if os.geteuid() == 0:
            user = next(entry for name in _PLAIN_USERS if (entry := _user(name)) is not None)
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._run("initdb", "--no-sync", "--auth=trust", f"--username={_USER}", "--encoding=UTF8", "--locale=C", "data")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        settings = [f"-c{setting}" for setting in _SETTINGS]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._prefix,
                    str(self._programs / "postgres"),
                    *("-D", "data", "-k", str(self._folder), "-h", "127.0.0.1", "-p", str(self.port)),
                    *settings,
                ],
                cwd=self._folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for("PostgreSQL", self._answers)

    def stop(self) -> None:
        """End it at once: every connection breaks."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def close(self) -> None:
        """End it in any state."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)

    def database(self) -> str:
        """The address of a new, empty database. It has a password."""
        name = f"test{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql://{_USER}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def sql(self, statement: str, address: str = "") -> str:
        """The first value that a statement gives, as text, in a database."""
        address = address or f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description is not None else None
            return "" if row is None else str(row[0])

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self._folder / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"PostgreSQL has ended:\n{self.log}"
        with contextlib.suppress(psycopg.OperationalError):
            return self.sql("SELECT 1") == "1"
        return False

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._prefix, str(self._programs / program), *arguments],
            cwd=self._folder,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the time of the block."""
    # Below /tmp: the path of a socket has to be short, and another user has to reach it.
    with tempfile.TemporaryDirectory(prefix="tailrace-pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        server = PostgresServer(Path(name))
        try:
            yield server
        finally:
            server.close()


def _environment() -> Mapping[str, str]:
    """The tests' own, with the libraries of an unpacked server, and in the language of its messages."""
    libraries = [str(path) for path in _UNPACKED.glob("usr/lib/*-linux-*")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**clean, "LC_ALL": "C", **({"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {})}


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
