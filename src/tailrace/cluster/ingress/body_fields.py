"""The few fields of a request's body that decide where it goes. Everything else of it is the replica's to judge."""

from __future__ import annotations

import msgspec

from tailrace.errors import RequestError
from tailrace.server.json_body import decode

#: Bytes of a model's name, in JSON, from which it is no name that a model can have.
_MAX_NAME = 65_536
_NULL = b"null"


class BodyFields(msgspec.Struct, frozen=True):
    """The fields' values; a wrong one is refused by the replica."""

    model: str | None = None  #: the model's name, in either of Ollama's spellings; None where there is none
    stream: bool | None = None  #: None where it isn't said


class _Written(msgspec.Struct, frozen=True):
    """The fields as the body has them. Values of any type pass, and none of them is built: it may be a large one."""

    model: msgspec.Raw = msgspec.Raw(_NULL)
    name: msgspec.Raw = msgspec.Raw(_NULL)  #: Ollama's older name of ``model``
    stream: msgspec.Raw = msgspec.Raw(_NULL)


_decoder = msgspec.json.Decoder(_Written)
_NONE = BodyFields()


def fields_of(body: bytes) -> BodyFields:
    """The fields; none of them where the body is no JSON object. It takes time in proportion to the body."""
    if not body:
        return _NONE
    try:
        written = _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        try:
            written = decode(body, _decoder)  # It reads what some clients write instead of JSON.
        except RequestError:
            return _NONE
    stream = bytes(memoryview(written.stream)[: len(_NULL) + 1])
    return BodyFields(
        model=_text(written.model) or _text(written.name),
        stream=None if stream == _NULL else stream == b"true",
    )


def _text(value: msgspec.Raw) -> str | None:
    """The string; None for a value of another type, and for the empty string."""
    written = memoryview(value)
    if len(written) > _MAX_NAME or written[0] != ord('"'):
        return None
    try:
        return msgspec.json.decode(value, type=str) or None
    except msgspec.MsgspecError:
        return None
