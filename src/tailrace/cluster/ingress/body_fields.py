"""The few fields of a request's body that decide where it goes. Everything else of it is the replica's to judge."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.errors import RequestError
from tailrace.server.json_body import decode


class BodyFields(msgspec.Struct, frozen=True):
    """Values of any type: a wrong one is refused by the replica."""

    model: Any = None
    name: Any = None  #: Ollama's older name of ``model``
    stream: Any = None

    @property
    def model_name(self) -> str | None:
        """The model's name; None where there is none."""
        return next((name for name in (self.model, self.name) if isinstance(name, str) and name), None)


_decoder = msgspec.json.Decoder(BodyFields)
_NONE = BodyFields()


def fields_of(body: bytes) -> BodyFields:
    """The fields; none of them where the body is no JSON object."""
    if not body:
        return _NONE
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        pass
    try:
        return decode(body, _decoder)  # It reads what some clients write instead of JSON.
    except RequestError:
        return _NONE
