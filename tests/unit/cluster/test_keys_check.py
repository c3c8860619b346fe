"""Keys with limits need counters that all replicas share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailrace.cluster.keys_check import check_keys
from tailrace.errors import ConfigurationError
from tailrace.server.keys.keys_file import KeyRecord, KeysFile, new_key, now
from tailrace.settings import Settings


def keys(folder: Path, *limits: dict[str, Any]) -> Settings:
    file = KeysFile(folder / "keys.json")
    for number, each in enumerate(limits):
        file.add(new_key(KeyRecord(name=f"key{number}", id="", sha256="", created=now(), **each))[1])
    return Settings(keys_file=str(file.file))


def test_keys_without_limits_may_be_in_a_file(tmp_path: Path) -> None:
    check_keys(keys(tmp_path), 9)
    check_keys(keys(tmp_path, {}, {"models": ("a*",)}), 9)


@pytest.mark.parametrize("limit", ["concurrency", "tokens_per_minute", "tokens_per_day"])
def test_a_key_with_a_limit_is_refused_for_several_replicas(tmp_path: Path, limit: str) -> None:
    settings = keys(tmp_path, {}, {limit: 5})
    check_keys(settings, 1)
    with pytest.raises(ConfigurationError, match=r"\(key1\), and each of 2 replicas .* set keys_store"):
        check_keys(settings, 2)


def test_keys_in_postgresql_may_have_limits(tmp_path: Path) -> None:
    limited = keys(tmp_path, {"concurrency": 1})
    check_keys(Settings(keys_file=limited.keys_file, keys_store="postgresql://db/tailrace"), 9)
