"""Request bodies to structs, with errors that name the field."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from tailrace.errors import InvalidRequest

T = TypeVar("T")

_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
_FIELD = re.compile(r"(?:required field|unknown field) `(.+?)`")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """``body`` as the decoder's struct. Raises InvalidRequest: with ``param`` where one field is at fault."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request's body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The request's body is nested too deeply.", code="invalid_json") from None


def convert(value: Any, kind: type[T], path: str) -> T:
    """``value``, which JSON was decoded to and which stands at ``path`` in the body, as a ``kind``. Raises
    InvalidRequest, naming the field.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), path) from None
    except RecursionError:
        raise InvalidRequest(f"'{path}' is nested too deeply.", param=path) from None


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
