"""The file of keys: no key in it, only this user may read it, and no change is lost or half done."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import msgspec
import pytest

from tailrace.errors import ConfigurationError, TailraceError
from tailrace.server.keys.keys_file import KeyRecord, KeysFile, check_name, digest, new_key, now, read_keys


def record(name: str) -> tuple[str, KeyRecord]:
    return new_key(KeyRecord(name=name, id="", sha256="", created=now(), concurrency=3, models=("a*",)))


def test_a_key_is_random_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "keys.json"
    key, made = record("alice")
    other, _ = record("alice")
    assert key.startswith("tr-")
    assert len(key) >= 3 + 43  # 256 bits, six in each character
    assert key != other
    assert KeysFile(file).add(made)
    assert key not in file.read_text()
    assert key[3:] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_keys(file) == [made]
    assert made.sha256 == digest(key.encode())


def test_names_are_unique_until_they_are_revoked(tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "keys.json")
    _, first = record("a")
    assert file.add(first)
    with pytest.raises(ConfigurationError, match="already"):
        file.add(record("a")[1])
    assert not file.add(record("b")[1])
    assert file.remove("a") == 1
    with pytest.raises(ConfigurationError, match="no key 'a'"):
        file.remove("a")
    _, second = record("a")
    file.add(second)
    assert second.id != first.id
    assert file.remove("b") == 1
    assert file.remove("a") == 0
    assert read_keys(file.file) == []


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\nb", "ä", "a" * 65, "default", "../a", "[red]"])
def test_names_that_could_forge_a_line(name: str) -> None:
    with pytest.raises(ConfigurationError):
        check_name(name)


def test_concurrent_changes_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    threads = [threading.Thread(target=lambda n=n: KeysFile(file).add(record(f"k{n}")[1])) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {known.name for known in read_keys(file) or []} == {f"k{n}" for n in range(20)}


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = KeysFile(tmp_path / "keys.json")
    file.add(record("a")[1])
    before = file.file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TailraceError, match="No space left"):
        file.add(record("b")[1])
    assert file.file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    link = tmp_path / "keys.json"
    KeysFile(real).add(record("a")[1])
    link.symlink_to(real)
    KeysFile(link).add(record("b")[1])
    assert link.is_symlink()
    assert len(read_keys(real) or []) == 2


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"version": 1, "keys": [{"name": "a"}]}', '{"version": 2, "keys": []}']
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"keys\.json"):
        read_keys(file)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha256", "00"),
        ("sha256", "z" * 64),
        ("name", "a b"),
        ("created", "2030-01-01T00:00:00"),
        ("expires", "2030-01-01T00:00:00"),
        ("concurrency", 0),
        ("tokens_per_day", -1),
        ("models", "all"),
        ("unknown", 1),
    ],
)
def test_a_wrong_field_of_a_key_is_an_error(tmp_path: Path, field: str, value: object) -> None:
    file = tmp_path / "keys.json"
    _, made = record("a")
    contents = {"version": 1, "keys": [{**msgspec.to_builtins(made), field: value}]}
    file.write_bytes(msgspec.json.encode(contents))
    with pytest.raises(ConfigurationError, match=field):
        read_keys(file)


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert read_keys(tmp_path / "keys.json") is None
