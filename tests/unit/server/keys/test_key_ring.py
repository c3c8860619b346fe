"""Which key a request has, and how a server follows the keys' file."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tailrace.errors import TooManyRequests, Unauthorized
from tailrace.server.keys.key_ring import KeyRing
from tailrace.server.keys.keys_file import KeyRecord, KeysFile, new_key
from tailrace.settings import Settings

START = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


class Folder:
    """A file of keys, the use beside it, and a clock that stands still."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.json"
        self.usage = folder / "usage.sqlite"
        self.seconds = 0.0

    def ring(self, api_key: str | None = None) -> KeyRing:
        settings = Settings(keys_file=str(self.file), api_key=api_key)
        return KeyRing(settings, usage_file=self.usage, clock=lambda: self.seconds, now=self.now)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def add(self, name: str, **limits: object) -> str:
        """A new key in the file."""
        key, record = new_key(KeyRecord(name=name, id="", sha256="", created=START, **limits))  # type: ignore[arg-type]  # limits alone
        KeysFile(self.file).add(record)
        return key


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def name(ring: KeyRing, key: str, header: str = "authorization") -> str | None:
    """The name of the key that a request with ``key`` has."""
    value = f"Bearer {key}" if header == "authorization" else key
    found = ring.authenticate({header.encode(): value.encode()})
    return None if found is None else found.name


def test_without_keys_none_is_needed(folder: Folder) -> None:
    ring = folder.ring()
    assert not ring.required
    assert name(ring, "anything") is None


def test_each_key_has_its_name(folder: Folder) -> None:
    keys = {f"k{n}": folder.add(f"k{n}") for n in range(10)}
    ring = folder.ring("s3cret")
    for known, key in keys.items():
        assert name(ring, key) == known
        assert name(ring, key, "x-api-key") == known
    assert name(ring, "s3cret") == "default"
    both = {b"authorization": b"Bearer placeholder", b"x-api-key": keys["k3"].encode()}
    assert ring.authenticate(both) is not None
    for wrong in ("", "s3cret2", keys["k1"][:-1], keys["k1"] + "x", "\xff"):
        with pytest.raises(Unauthorized, match="Missing or wrong") as error:
            name(ring, wrong)
        assert error.value.headers["www-authenticate"] == "Bearer"


def test_an_expired_key_says_so_and_a_key_never_does(folder: Folder) -> None:
    key = folder.add("old", expires=START + timedelta(hours=1))
    ring = folder.ring()
    assert name(ring, key) == "old"
    folder.seconds = 3600
    with pytest.raises(Unauthorized, match="'old' expired on 2030-01-01 13:00 UTC") as error:
        name(ring, key)
    assert (error.value.status, error.value.code) == (401, "expired_api_key")
    assert key not in error.value.message


def test_a_changed_file_is_noticed_within_a_second(folder: Folder) -> None:
    first = folder.add("first")
    ring = folder.ring()
    second = folder.add("second")
    with pytest.raises(Unauthorized):
        name(ring, second)
    folder.seconds += 1
    assert name(ring, second) == "second"
    KeysFile(folder.file).remove("first")
    assert name(ring, first) == "first"
    folder.seconds += 1
    with pytest.raises(Unauthorized):
        name(ring, first)


def test_the_first_key_closes_an_open_server_and_nothing_opens_it_again(folder: Folder) -> None:
    ring = folder.ring()
    assert name(ring, "any") is None
    key = folder.add("first")
    folder.seconds += 1
    with pytest.raises(Unauthorized):
        name(ring, "any")
    assert name(ring, key) == "first"
    KeysFile(folder.file).remove("first")
    folder.seconds += 1
    with pytest.raises(Unauthorized):
        name(ring, "any")
    folder.file.unlink()
    folder.seconds += 1
    with pytest.raises(Unauthorized):
        name(ring, "any")
    assert not folder.ring().required


def test_a_broken_file_keeps_the_keys_of_a_running_server(folder: Folder) -> None:
    key = folder.add("first")
    ring = folder.ring()
    folder.file.write_text("{")
    ring.reload()
    assert name(ring, key) == "first"
    # A process that is started again has no other keys. It stays closed, and looks at the file when it changes.
    fresh = folder.ring("s3cret")
    for given in (key, "other"):
        with pytest.raises(Unauthorized):
            name(fresh, given)
    assert name(fresh, "s3cret") == "default"


def test_what_is_used_stays_used_at_a_reload(folder: Folder) -> None:
    key = folder.add("first", concurrency=1)
    ring = folder.ring()
    found = ring.authenticate({b"x-api-key": key.encode()})
    assert found is not None
    found.allowance.running = 1
    folder.add("second")
    ring.reload()
    again = ring.authenticate({b"x-api-key": key.encode()})
    assert again is not None
    with pytest.raises(TooManyRequests):
        again.allowance.check()


def test_a_days_use_outlives_the_process(folder: Folder) -> None:
    key = folder.add("first", tokens_per_day=100)

    async def use(tokens: int) -> None:
        ring = folder.ring()
        found = ring.authenticate({b"x-api-key": key.encode()})
        assert found is not None
        found.allowance.check()
        found.allowance.charge(tokens)
        ring.close()

    asyncio.run(use(60))
    asyncio.run(use(60))
    assert folder.usage.stat().st_mode & 0o077 == 0
    with pytest.raises(TooManyRequests, match="has used 120"):
        asyncio.run(use(1))
    folder.seconds = 86_400
    asyncio.run(use(1))


def test_use_that_cannot_be_stored_still_counts(folder: Folder) -> None:
    key = folder.add("first", tokens_per_day=100)
    folder.usage.mkdir()  # No file can be there.

    async def use() -> None:
        ring = folder.ring()
        found = ring.authenticate({b"x-api-key": key.encode()})
        assert found is not None
        found.allowance.charge(100)
        with pytest.raises(TooManyRequests):
            found.allowance.check()
        ring.close()

    asyncio.run(use())
