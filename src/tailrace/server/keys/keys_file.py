"""The file of API keys: made and changed by ``tailrace keys``, read by servers.

It has the SHA-256 of each key, and no key. A slow hash (bcrypt, Argon2) protects passwords, which can be guessed. A key
has 256 random bits, so no guess finds it, and a fast hash of it can't be turned back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from tailrace.errors import ConfigurationError, TailraceError
from tailrace.folders import config_folder
from tailrace.server.keys import usage_store

#: The beginning of every key, by which people and secret scanners know it.
PREFIX = "tr-"
#: The name of the key in the setting ``api_key``.
DEFAULT_NAME = "default"
_RANDOM_BYTES = 32
_VERSION = 1
#: Names go into logs, metrics and headers.
_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_NAME = re.compile(_NAME_PATTERN)

_Time = Annotated[datetime, Meta(tz=True)]
_Count = Annotated[int, Meta(ge=1)]


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One key. A limit that is None doesn't limit."""

    name: Annotated[str, Meta(pattern=_NAME_PATTERN)]
    id: str  #: stays with stored responses and usage; a new key of an old name has another
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  #: of the key
    created: _Time
    expires: _Time | None = None
    concurrency: _Count | None = None  #: requests that run or wait at the same time
    tokens_per_minute: _Count | None = None  #: of prompts and replies
    tokens_per_day: _Count | None = None  #: the same, in a day of UTC
    models: tuple[str, ...] = ()  #: patterns of the models it may use; none: all

    @property
    def has_limits(self) -> bool:
        """Whether the use of the key has to be counted before a request begins."""
        return any(limit is not None for limit in (self.concurrency, self.tokens_per_minute, self.tokens_per_day))


class _Contents(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    keys: list[KeyRecord]


def default_file() -> Path:
    """``$XDG_CONFIG_HOME/tailrace/keys.json``, or the same under ``~/.config``."""
    return config_folder() / "keys.json"


def keys_path(setting: str | None) -> Path:
    """The file that the setting ``keys_file`` names."""
    return default_file() if setting is None else Path(setting).expanduser()


def digest(key: bytes) -> str:
    """The hash of a key, as the file has it."""
    return hashlib.sha256(key).hexdigest()


def new_key(record: KeyRecord) -> tuple[str, KeyRecord]:
    """A new key, and ``record`` with its id and hash."""
    key = f"{PREFIX}{secrets.token_urlsafe(_RANDOM_BYTES)}"
    return key, msgspec.structs.replace(record, id=secrets.token_hex(8), sha256=digest(key.encode()))


def check_name(name: str) -> None:
    """Raise ConfigurationError when a key can't have this name."""
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name[:80]!r} can't be a key's name: use up to 64 letters, digits, dots, dashes and underscores"
        )
    if name == DEFAULT_NAME:
        raise ConfigurationError(f"'{DEFAULT_NAME}' is the name of the key in the setting api_key; choose another")


def read_keys(file: Path) -> list[KeyRecord] | None:
    """The keys; None without a file. Raises ConfigurationError when it can't be used."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"the keys file {file} can't be read: {error.strerror or error}") from error
    try:
        contents = msgspec.json.decode(data, type=_Contents)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"the keys file {file} can't be used: {error}; restore it, or make new keys") from None
    if contents.version != _VERSION:
        raise ConfigurationError(f"the keys file {file} is of another version of tailrace; set keys_file to another")
    return contents.keys


class KeysFile:
    """The file, for one that changes it. Concurrent changes wait for each other."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @property
    def place(self) -> str:
        """What messages call it."""
        return str(self.file)

    def read(self) -> list[KeyRecord] | None:
        """See ``read_keys``."""
        return read_keys(self.file)

    def used_today(self) -> dict[str, int]:
        """Each key's tokens of the day, by its id: of all servers of this user."""
        return usage_store.read_day(usage_store.default_file(), datetime.now(UTC).date().isoformat())

    def add(self, record: KeyRecord) -> bool:
        """Add a key; True when the file is new. Raises ConfigurationError for a name that is taken."""
        with self._locked():
            found = read_keys(self.file)
            if any(known.name == record.name for known in found or ()):
                raise ConfigurationError(
                    f"there is a key '{record.name}' already; revoke it first, or choose another name"
                )
            self._write([*(found or ()), record])
            return found is None

    def remove(self, name: str) -> int:
        """Remove a key; the number of those that are left. Raises ConfigurationError where there is none."""
        with self._locked():
            found = read_keys(self.file) or []
            left = [known for known in found if known.name != name]
            if len(left) == len(found):
                raise ConfigurationError(f"there is no key '{name[:80]}' in {self.file}")
            self._write(left)
            return len(left)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock is on a file beside it, because the file itself is replaced."""
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.file.with_name(f"{self.file.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise TailraceError(f"{self.file.parent} can't be written: {error.strerror or error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, keys: list[KeyRecord]) -> None:
        """Replace the file in one step: a server never reads a part of it."""
        data = msgspec.json.format(msgspec.json.encode(_Contents(version=_VERSION, keys=keys)), indent=2)
        # A link, such as one of a configuration manager, stays a link.
        target = self.file.resolve()
        fresh: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".keys-", delete=False) as file:  # Mode 0600.
                fresh = Path(file.name)
                file.write(data + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, target)
        except OSError as error:
            if fresh is not None:
                fresh.unlink(missing_ok=True)
            raise TailraceError(f"the keys file {target} can't be written: {error.strerror or error}") from error


def now() -> datetime:
    """The time, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
