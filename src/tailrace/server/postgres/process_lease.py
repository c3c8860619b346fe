"""Shows all servers of a database which processes live: each renews its lease, by the database's clock.

A process that doesn't renew its lease for ``LEASE_SECONDS`` counts as dead. While PostgreSQL is gone no process can
renew, so none is counted as dead until it has been back for as long.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

#: Seconds for which a lease is valid.
LEASE_SECONDS = 6.0
#: Seconds between two renewals.
RENEW_SECONDS = 2.0
#: Longer silences of this process's own renewals begin the wait for other processes anew.
_GAP_SECONDS = 2 * RENEW_SECONDS

CHANGES = ("CREATE TABLE tailrace_processes (number BIGINT PRIMARY KEY, expires TIMESTAMPTZ NOT NULL)",)

#: A statement, or a part of one, that renews a lease; its only value is the number.
RENEW = (
    f"INSERT INTO tailrace_processes VALUES (%s, clock_timestamp() + interval '{LEASE_SECONDS} seconds') "
    "ON CONFLICT (number) DO UPDATE SET expires = excluded.expires"
)
#: The numbers of the processes that live.
ALIVE = "SELECT number FROM tailrace_processes WHERE expires > clock_timestamp()"
#: Deletes leases that are long over.
FORGET = "DELETE FROM tailrace_processes WHERE expires < clock_timestamp() - interval '1 day'"
#: Ends a lease at once; its only value is the number.
END = "DELETE FROM tailrace_processes WHERE number = %s"


class ProcessLease:
    """This process's lease: a random number, and since when it has been renewed without a gap."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.number = secrets.randbits(62)
        self._clock = clock
        self._since: float | None = None
        self._renewed_at = 0.0

    def renewed(self) -> None:
        """The lease has been renewed."""
        now = self._clock()
        if self._since is None or now - self._renewed_at > _GAP_SECONDS:
            self._since = now
        self._renewed_at = now

    @property
    def is_due(self) -> bool:
        """Whether it has to be renewed now."""
        return self._since is None or self._clock() - self._renewed_at >= RENEW_SECONDS

    @property
    def may_judge(self) -> bool:
        """Whether a lease of another process that is over means that it is dead: all could renew for long enough."""
        now = self._clock()
        return self._since is not None and now - self._renewed_at <= _GAP_SECONDS and now - self._since >= LEASE_SECONDS
