"""The fields of a body that decide where it goes: any body is read, and no value of it is built."""

from __future__ import annotations

import tracemalloc

import pytest

from tailrace.cluster.ingress.body_fields import BodyFields, fields_of


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (b'{"model": "m", "stream": true, "messages": [{"role": "user"}]}', "m", True),
        (b'{"name": "m"}', "m", None),
        (b'{"model": "", "name": "other", "stream": false}', "other", False),
        (b'{"model": "\\u00fc", "stream": null}', "\u00fc", None),
        (b'\xef\xbb\xbf{"model": "m"}', "m", None),
        (b'{"model": 7, "stream": "yes"}', None, False),
        (b'{"model": {"a": "b"}, "name": ["m"]}', None, None),
        (b'{"model": "a", "model": "b"}', "b", None),
        (b'["model"]', None, None),
        (b"{", None, None),
        (b"", None, None),
        (b"[" * 100_000, None, None),
        (b'{"model": "' + b"m" * 70_000 + b'"}', None, None),
    ],
)
def test_fields(body: bytes, model: str | None, stream: bool | None) -> None:
    assert fields_of(body) == BodyFields(model=model, stream=stream)


@pytest.mark.parametrize("name", ["model", "stream", "other"])
def test_a_large_value_takes_no_memory(name: str) -> None:
    body = b'{"' + name.encode() + b'": [' + b"[]," * 1_000_000 + b"[]]}"
    tracemalloc.start()
    try:
        fields_of(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
