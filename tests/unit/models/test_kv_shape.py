"""The memory of the KV cache's types, and the heads that quantised types can't store."""

from __future__ import annotations

import pytest

from tailrace.errors import ConfigurationError
from tailrace.models.kv_shape import CacheTypes, KVShape

STARTER = KVShape(layers=30, heads=3, key_length=64, value_length=64)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (CacheTypes(), 30 * 3 * (128 + 128)),
        (CacheTypes("bf16", "bf16"), 30 * 3 * (128 + 128)),
        (CacheTypes("q8_0", "q8_0"), 30 * 3 * (68 + 68)),
        (CacheTypes("q8_0", "f16"), 30 * 3 * (68 + 128)),
        (CacheTypes("q4_0", "q4_0"), 30 * 3 * (36 + 36)),
    ],
)
def test_a_token_takes_the_bytes_of_its_types(types: CacheTypes, expected: int) -> None:
    assert STARTER.token_bytes(types) == expected


def test_keys_and_values_of_different_lengths_are_counted_apart() -> None:
    shape = KVShape(layers=1, heads=1, key_length=576, value_length=512)
    assert shape.token_bytes(CacheTypes("q8_0", "f16")) == 576 // 32 * 34 + 2 * 512


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_heads_that_are_no_whole_blocks_are_refused_by_the_setting_s_name(kind: str) -> None:
    narrow = KVShape(layers=2, heads=2, key_length=80, value_length=64)
    with pytest.raises(ConfigurationError, match=rf"cache_type_k can't be {kind}.* heads have 80 .*multiple of 32"):
        narrow.check(CacheTypes(kind, "f16"))  # type: ignore[arg-type]
    narrow.check(CacheTypes("f16", kind))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="cache_type_v can't be"):
        KVShape(2, 2, 64, 80).check(CacheTypes("f16", kind))  # type: ignore[arg-type]


def test_floats_have_any_heads() -> None:
    KVShape(2, 2, 80, 80).check(CacheTypes("bf16", "f16"))
