"""Request bodies to structs, with errors that name the field.

Many clients write integers as floats: ``2.0`` for 2. JSON has one type for both, so both are accepted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from tailrace.chat.json_depth import is_too_deep
from tailrace.errors import InvalidRequest
from tailrace.server.json_structure import check_structure, too_deep

T = TypeVar("T")

_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
_FIELD = re.compile(r"(?:required field|unknown field) `(.+?)`")
#: msgspec's error for a float where the struct has an integer.
_FLOAT = re.compile(r"^Expected `[^`]*\bint\b[^`]*`, got `float`")
_STEP = re.compile(r"\[(\d+)\]|\.?([^.\[\]]+)")
#: Objects of one body in which floats are replaced: real requests have them in one or two, and each costs a decode.
_MOST_OBJECTS = 4

#: Bytes of a body from which its structure is bounded: a smaller one has at most 65,536 values.
_LARGE = 131_072

#: Some editors and shells put it in front of the text.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

#: A surrogate in JSON that is alone, as an escape (group 1) or in bytes (group 2), as some languages write strings.
#: Other escapes and whole pairs match as well, so that the search goes on behind them.
_SURROGATE = re.compile(
    rb"\\[^u]"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|(\xed[\xa0-\xbf][\x80-\xbf])"
)


class Truncated(NamedTuple):
    """Fields whose floats lose their fraction: those of these names in the object at ``path``."""

    path: str
    names: frozenset[str]


def decode(body: bytes, decoder: msgspec.json.Decoder[T], *, truncated: Truncated | None = None) -> T:
    """``body`` as the decoder's struct. A float with a whole value is accepted for an integer, and any float in
    the fields that are ``truncated``.

    The result is nested at most ``MAX_JSON_DEPTH`` levels deep, so that later code can walk it.

    A lone surrogate, which is half of a character that was cut in two, is read as U+FFFD, as Ollama's parser does: a
    client that has such a string in its history can't get rid of it. A byte order mark is skipped.

    Takes time in proportion to the body: ``AppState.read`` calls it on a thread for a large one.

    Raises InvalidRequest: with ``param`` where one field is at fault.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if len(body) > _LARGE:
        check_structure(body)
    elif is_too_deep(body):
        raise too_deep(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if _FLOAT.match(str(error)):
            return _with_integers(
                _parsed(body), lambda value: decoder.decode(msgspec.json.encode(value)), error, truncated
            )
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return decode(_repaired(body, error), decoder, truncated=truncated)
    except RecursionError:
        raise InvalidRequest("The request's body is nested too deeply.", code="invalid_json") from None


def _parsed(body: bytes) -> Any:
    """``body`` as plain values. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _parsed(_repaired(body, error))


def _repaired(body: bytes, error: Exception) -> bytes:
    """``body``, which can't be read because of ``error``, with U+FFFD for each surrogate without its other half. Raises
    InvalidRequest where there is none.
    """
    whole = _SURROGATE.sub(lambda found: b"\\ufffd" if found[1] or found[2] else found[0], body)
    if whole == body:
        raise InvalidRequest(f"The request's body is not valid JSON: {error}.", code="invalid_json") from None
    return whole


def convert(value: Any, kind: type[T], path: str) -> T:
    """``value``, which JSON was decoded to and which stands at ``path`` in the body, as a ``kind``. Raises
    InvalidRequest, naming the field.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        if _FLOAT.match(str(error)):
            copy = msgspec.json.decode(msgspec.json.encode(value))
            return _with_integers(copy, lambda value: msgspec.convert(value, kind), error, None, path)
        raise _invalid(str(error), path) from None
    except RecursionError:
        raise InvalidRequest(f"'{path}' is nested too deeply.", param=path) from None


def _with_integers(
    value: Any, read: Callable[[Any], T], error: msgspec.ValidationError, truncated: Truncated | None, path: str = ""
) -> T:
    """What ``read`` makes of ``value`` once its floats are integers in the objects where it has refused one, the first
    time with ``error``. Changes ``value``. Raises InvalidRequest.
    """
    for _ in range(_MOST_OBJECTS):
        found = _PATH.search(str(error))
        if not _FLOAT.match(str(error)) or found is None or not _replace_floats(value, found[1], truncated):
            break
        try:
            return read(value)
        except msgspec.ValidationError as another:
            error = another
    raise _invalid(str(error), path)


def _replace_floats(value: Any, path: str, truncated: Truncated | None) -> bool:
    """Make integers of the float at ``path`` and of those beside it; False where that one can't be an integer."""
    steps = [int(index) if index else name for index, name in _STEP.findall(path)]
    try:
        for step in steps[:-1]:
            value = value[step]
        fault = steps[-1]
        held = value[fault]
    except (LookupError, TypeError):
        return False  # Within a mapping whose keys the error doesn't tell.
    cut = truncated.names if truncated is not None and path.rpartition(".")[0] == truncated.path else frozenset()
    if not isinstance(held, float) or not (held.is_integer() or (fault in cut and math.isfinite(held))):
        return False
    for key, other in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(other, float) and (other.is_integer() or (key in cut and math.isfinite(other))):
            value[key] = int(other)
    return True


def _invalid(text: str, path: str = "") -> InvalidRequest:
    if found := _PATH.search(text):
        inner = found[1]
        text = text[: found.start()]
        path = inner if not path else path + inner if inner.startswith("[") else f"{path}.{inner}" if inner else path
    if found := _FIELD.search(text):
        path = f"{path}.{found[1]}" if path else found[1]
    if not path:
        return InvalidRequest(f"The request's body must be a JSON object: {text}.")
    return InvalidRequest(f"Invalid value for '{path}': {text}.", param=path)
