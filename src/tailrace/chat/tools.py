"""What a model may call: functions, as every dialect offers them."""

from __future__ import annotations

from typing import Any

import msgspec


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function on offer. ``parameters`` is a JSON schema of an object; None is a function without parameters.
    ``strict``: calls must fit the schema even where the model chooses freely whether to call.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False

    def offered(self) -> dict[str, Any]:
        """The form that chat templates expect, which is OpenAI's."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}

    def schema(self) -> dict[str, Any]:
        """What the arguments of a call that a grammar holds have to fit. Where the schema doesn't say whether there may
        be others than it names, there are none: a model would invent some.
        """
        schema = {"type": "object", **(self.parameters or {})}
        if not _OPEN.intersection(schema):
            schema["additionalProperties"] = False
        return schema


#: Keywords that say more about an object's members than its properties do.
_OPEN = frozenset(
    {"additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
)
