"""Metadata overrides: what is read of ``KEY=TYPE:VALUE``, and which texts are refused with the remedy."""

from __future__ import annotations

import pytest

from tailrace.errors import ConfigurationError
from tailrace.models.metadata_override import MetadataOverride, parse_overrides, with_overrides


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("llama.context_length=int:4096", "llama.context_length", 4096),
        ("llama.rope.freq_base=float:1e6", "llama.rope.freq_base", 1e6),
        ("tokenizer.ggml.add_bos_token=bool:false", "tokenizer.ggml.add_bos_token", False),
        ("tokenizer.ggml.pre=str:llama3", "tokenizer.ggml.pre", "llama3"),
        ("general.name=str:a=b, c:d", "general.name", "a=b, c:d"),
        ("general.name=str:", "general.name", ""),
    ],
)
def test_an_override_has_a_value_of_its_type(text: str, key: str, value: object) -> None:
    (override,) = parse_overrides([text])
    assert override.key == key
    assert (type(override.value), override.value) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("context=4096", "KEY=TYPE:VALUE"),
        ("context=long:4096", "KEY=TYPE:VALUE"),
        ("=int:4096", "KEY=TYPE:VALUE"),
        ("context=int:many", "no whole number"),
        ("context=int:9223372036854775808", "64 bits"),
        ("base=float:nan", "no finite number"),
        ("flag=bool:yes", "neither true nor false"),
        ("name=str:" + "ä" * 64, "127 bytes"),
        ("k" * 128 + "=int:1", "127 bytes"),
        ("name=str:a\0b", "no text has"),
        ("a\udcff=int:1", "no text has"),
    ],
)
def test_what_cannot_be_an_override_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        parse_overrides([text])


def test_overrides_count_instead_of_a_headers_values() -> None:
    values = with_overrides({"llama.context_length": 2048, "general.name": "a"}, ["llama.context_length=int:512"])
    assert values == {"llama.context_length": 512, "general.name": "a"}
    assert parse_overrides(["a=int:1"]) == (MetadataOverride("a", 1),)
