"""One connection to PostgreSQL, for one thread at a time."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

#: Seconds for one attempt to connect. An address may name several hosts.
CONNECT_SECONDS = 3
#: Seconds after which PostgreSQL gives a statement up.
STATEMENT_SECONDS = 5

Row = tuple[Any, ...]

#: What libpq is told where the address doesn't say otherwise.
_OPTIONS = {
    "connect_timeout": str(CONNECT_SECONDS),
    "fallback_application_name": "tailrace",
    # A peer that has vanished is noticed within the time that a statement may take.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": str(STATEMENT_SECONDS * 1000),
}


class DatabaseFailure(Exception):
    """PostgreSQL can't be reached, or has refused a statement. The text has no password."""


class Connection:
    """See the module. Every method raises DatabaseFailure. Outside ``transaction`` each statement is one."""

    def __init__(self, address: str) -> None:
        """Connect. ``address`` is a postgresql:// address; what it leaves out comes from libpq's own means."""
        import psycopg
        from psycopg.conninfo import conninfo_to_dict, make_conninfo

        self._errors = psycopg.Error
        self._lost = (psycopg.OperationalError, psycopg.InterfaceError)
        try:
            options = {name: value for name, value in _OPTIONS.items() if name not in conninfo_to_dict(address)}
            # Prepared statements don't pass poolers that share connections between clients.
            self._connection: psycopg.Connection[Row] = psycopg.connect(
                make_conninfo(address, **options), autocommit=True, prepare_threshold=None
            )
            self.rows("SELECT set_config('statement_timeout', %s, false)", (f"{STATEMENT_SECONDS}s",))
        except psycopg.Error as error:
            raise DatabaseFailure(_text(error)) from None

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """The rows that a statement returns; none where it returns nothing."""
        with self._reporting(), self._connection.cursor(binary=True) as cursor:
            cursor.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description is not None else []

    def row(self, statement: str, values: Sequence[object] = ()) -> Row | None:
        """The first row."""
        return next(iter(self.rows(statement, values)), None)

    def count(self, statement: str, values: Sequence[object] = ()) -> int:
        """How many rows a statement has changed."""
        with self._reporting(), self._connection.cursor() as cursor:
            cursor.execute(statement.encode(), values or None)
            return cursor.rowcount

    def script(self, statements: str) -> None:
        """Carry out several statements without values."""
        with self._reporting(), self._connection.cursor() as cursor:
            cursor.execute(statements.encode())

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside, or none of them."""
        with self._reporting(), self._connection.transaction():
            yield

    @property
    def is_lost(self) -> bool:
        """Whether it has broken: it can't be used any more."""
        return self._connection.closed

    @property
    def is_stale(self) -> bool:
        """Whether PostgreSQL has closed an idle connection: it sends nothing else while nothing is asked."""
        try:
            poll = select.poll()
            poll.register(self._connection.fileno(), select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError, *self._lost):
            return True

    def abort(self) -> None:
        """End what another thread waits for: its statement fails. The connection can't be used any more."""
        with contextlib.suppress(OSError, *self._lost):
            own = socket.socket(fileno=os.dup(self._connection.fileno()))
            with own:
                own.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(self._errors):
            self._connection.close()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise DatabaseFailure(_text(error)) from None


def _text(error: BaseException) -> str:
    """The error in one line. libpq's texts have hosts and users, and no passwords."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
