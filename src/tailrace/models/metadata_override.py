"""Changes of a model's metadata at its load, as users of llama.cpp write them: ``KEY=TYPE:VALUE``.

Types are ``int``, ``float``, ``bool`` and ``str``, as in llama.cpp's ``--override-kv``. The file isn't changed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tailrace.errors import ConfigurationError
from tailrace.models.gguf_file import Value

#: Bytes of a key and of a text in llama.cpp's structs, which end in a zero.
_MAX_BYTES = 127
_INT64 = range(-(2**63), 2**63)
_FORM = re.compile(r"(?P<key>[^=\s]+)=(?P<type>int|float|bool|str):(?P<value>.*)", re.DOTALL)
_EXAMPLE = "write KEY=TYPE:VALUE with the type int, float, bool or str, as in tokenizer.ggml.add_bos_token=bool:false"


class MetadataOverride(msgspec.Struct, frozen=True):
    """One key's new value; its Python type tells the type."""

    key: str
    value: int | float | bool | str


def parse_overrides(texts: Sequence[str]) -> tuple[MetadataOverride, ...]:
    """The overrides of the setting ``override_kv``, each text one of them. Raises ConfigurationError."""
    return tuple(_parse(text) for text in texts)


def check_types(values: Mapping[str, Value], overrides: Sequence[MetadataOverride]) -> None:
    """Raise ConfigurationError for an override whose type isn't that of the file's value: llama.cpp would ignore it."""
    for each in overrides:
        found = values.get(each.key)
        if found is not None and type(found) is not type(each.value):
            raise ConfigurationError(
                f"override_kv: {each.key} is {_TYPES[type(found)]} in the model's file, not {_TYPES[type(each.value)]}"
            )


def with_overrides(values: Mapping[str, Value], texts: Sequence[str]) -> dict[str, Value]:
    """A header's values as llama.cpp will see them. Raises ConfigurationError."""
    return {**values, **{each.key: each.value for each in parse_overrides(texts)}}


def _parse(text: str) -> MetadataOverride:
    found = _FORM.fullmatch(text)
    if found is None:
        raise _wrong(text, _EXAMPLE)
    key, value = found["key"], found["value"]
    if "\0" in text or not _is_text(text):
        raise _wrong(text, "it has a character that no text has")
    if len(key.encode()) > _MAX_BYTES:
        raise _wrong(text, f"a key has at most {_MAX_BYTES} bytes")
    try:
        return MetadataOverride(key, _CONVERSIONS[found["type"]](value))
    except ValueError as error:
        raise _wrong(text, str(error)) from error


def _is_text(text: str) -> bool:
    """Whether it is without bytes that aren't UTF-8, which Python has as half a character in arguments."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _integer(value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"{value!r} is no whole number") from None
    if number not in _INT64:
        raise ValueError(f"{value} doesn't fit into 64 bits")
    return number


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{value} is no finite number")
    return number


def _boolean(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"{value!r} is neither true nor false")
    return value == "true"


def _text(value: str) -> str:
    if len(value.encode()) > _MAX_BYTES:
        raise ValueError(f"a text has at most {_MAX_BYTES} bytes")
    return value


_TYPES: Mapping[type, str] = {int: "int", float: "float", bool: "bool", str: "str"}
_CONVERSIONS: dict[str, Callable[[str], int | float | bool | str]] = {
    "int": _integer,
    "float": _number,
    "bool": _boolean,
    "str": _text,
}


def _wrong(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"override_kv: {text[:200]!r} can't be used: {why}")
