"""The keys that a server knows, and which of them a request has.

A request's key is looked up by its hash. The time that takes may show how far the hash is like a known one. That is no
help: a key whose hash begins with wanted bytes can only be found by trying, and a known hash leads to no key. So the
time shows nothing about any key, however many there are.

The file is looked at once a second at most, when a request comes, and at ``reload``. With the file or the setting
``api_key`` every request needs a key. A file that is deleted or broken later doesn't open the server.

Keys in PostgreSQL are followed from ``start`` on. With the setting ``keys_store`` every request needs a key, too.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from tailrace.errors import ConfigurationError, StorageUnavailable, Unauthorized
from tailrace.server.keys import usage_store
from tailrace.server.keys.allowance import Allowance, today
from tailrace.server.keys.daily_use import DailyUse
from tailrace.server.keys.keys_file import DEFAULT_NAME, KeyRecord, keys_path, read_keys
from tailrace.server.keys.shared_keys import SharedKeys
from tailrace.settings import Settings

#: Seconds between two looks at the file.
_LOOK_SECONDS = 1.0
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ApiKey:
    """One key, for requests. ``owner`` is empty for the key of the setting ``api_key``: what was stored before there
    were named keys is that key's.
    """

    record: KeyRecord
    allowance: Allowance

    @property
    def name(self) -> str:
        """What logs and errors say."""
        return self.record.name

    @property
    def owner(self) -> str:
        """What stored objects of this key have as their owner."""
        return self.record.id


class KeyRing:
    """See the module. For the event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        usage_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """A file that can't be used is logged, and then no key of it works: the command has checked it at the start."""
        self._shared = None if settings.keys_store is None else SharedKeys(settings.keys_store, self._take)
        self._file = keys_path(settings.keys_file)
        self._clock = clock
        self._now = now
        self._usage = DailyUse(usage_file or usage_store.default_file(), self._on_totals)
        self._keys: dict[bytes, ApiKey] = {}  #: by the hash of the key
        self._default: dict[bytes, ApiKey] = {}
        if settings.api_key:
            record = KeyRecord(name=DEFAULT_NAME, id="", sha256="", created=_BEGINNING)
            default = ApiKey(record, Allowance(record, _uncounted))
            self._default[hashlib.sha256(settings.api_key.encode()).digest()] = default
        if self._shared is not None:
            self.required = True  #: whether requests need a key
            self._keys = self._default
            return
        self._state: tuple[int, ...] | None = self._look()
        self._looked_at = clock()
        found: list[KeyRecord] | None = []
        try:
            found = read_keys(self._file)
        except ConfigurationError as error:
            structlog.get_logger().error("no API key of the file works", error=str(error))
        self.required = found is not None or bool(self._default)
        self._take(found or [])

    def authenticate(self, headers: Mapping[bytes, bytes]) -> ApiKey | None:
        """The request's key; None where none is needed. Raises Unauthorized for a missing, wrong or expired one."""
        if self._shared is None:
            self._follow_file()
        if not self.required:
            return None
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        # Either will do: some clients fill in both, one of them with a placeholder.
        given = (headers.get(b"x-api-key"), token.strip() if scheme.lower() == b"bearer" else None)
        expired: ApiKey | None = None
        for one in given:
            if one and (key := self._keys.get(hashlib.sha256(one).digest())) is not None:
                if key.record.expires is None or key.record.expires > self._now():
                    return key
                expired = key
        if expired is not None:
            end = f"{expired.record.expires:%Y-%m-%d %H:%M} UTC"
            raise Unauthorized(
                f"The API key '{expired.name}' expired on {end}. Ask for a new one.", code="expired_api_key"
            )
        if self._shared is not None and not self._shared.is_known and any(given):
            raise StorageUnavailable("This server can't read its API keys yet; its log says why. Try again later.")
        raise Unauthorized("Missing or wrong API key. Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")

    def start(self) -> None:
        """Begin to follow keys in PostgreSQL, on the running event loop."""
        if self._shared is not None:
            self._shared.start()

    def reload(self) -> None:
        """Read the file again. A file that can't be used is logged, and the keys stay as they were."""
        if self._shared is not None:
            return
        log = structlog.get_logger()
        self._state = self._look()
        try:
            found = read_keys(self._file)
        except ConfigurationError as error:
            log.error("the API keys stay as they were", error=str(error))
            return
        if found is None:
            if self.required:
                log.warning("the keys file is gone; requests still need a key", file=str(self._file))
            self._take([])
            return
        if not self.required:
            log.warning("there is a keys file now: from now on requests need a key", file=str(self._file))
        self.required = True
        self._take(found)
        log.info("the API keys were read", keys=len(found))

    def close(self) -> None:
        """Store what was used."""
        self._usage.close()
        if self._shared is not None:
            self._shared.close()

    def _follow_file(self) -> None:
        """Read the file again if it has changed; it is looked at once a second."""
        now = self._clock()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            if self._look() != self._state:
                self.reload()

    def _look(self) -> tuple[int, ...] | None:
        """What changes when the file does; None without a file."""
        try:
            found = self._file.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _take(self, records: list[KeyRecord]) -> None:
        known = {key.record.id: key for key in self._keys.values()}
        keys = dict(self._default)
        for record in records:
            before = known.get(record.id)
            if before is None:
                allowance = self._new_allowance(record)
            else:
                allowance = before.allowance
                allowance.replace(record)
            keys[bytes.fromhex(record.sha256)] = ApiKey(record, allowance)
        self._keys = keys
        if self._shared is not None:
            return  # PostgreSQL is asked for the use of a key with limits when a request begins.
        if any(record.tokens_per_day is not None for record in records if record.id not in known):
            day = today(self._now())
            self._on_totals(day, self._usage.of_day(day))

    def _new_allowance(self, record: KeyRecord) -> Allowance:
        if self._shared is not None:
            return self._shared.allowance(record, self._clock, self._now)
        return Allowance(record, self._usage.counter(record.id), clock=self._clock, now=self._now)

    def _on_totals(self, day: str, totals: Mapping[str, int]) -> None:
        for key in self._keys.values():
            if (tokens := totals.get(key.record.id)) is not None:
                key.allowance.set_day(day, tokens)


def _uncounted(day: str, tokens: int) -> None:
    """The key of the setting has no limits, and no record."""
