"""The functions that a model may call, in the form that all dialects share."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.chat.schemas.normalize import SchemaError, normalize_schema


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """An offered function. ``parameters`` is a JSON schema of an object; None is a function without parameters.
    ``strict``: calls must fit the schema even where the model decides whether to call.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False

    def as_openai(self) -> dict[str, Any]:
        """OpenAI's form, which chat templates expect."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}

    def normalized_schema(self) -> dict[str, Any]:
        """The schema of the arguments in the form that a grammar takes. Raises SchemaError where no grammar can."""
        parameters = {"properties": {}} if self.parameters is None else self.parameters
        try:
            schema: dict[str, Any] = normalize_schema({"type": "object", **parameters}, strict=self.strict)
        except SchemaError as error:
            raise SchemaError(f"the parameters of '{self.name}': {error}") from None
        return schema

    def with_any_arguments(self) -> Function:
        """The same function with any arguments: for schemas that no grammar can express."""
        return msgspec.structs.replace(self, parameters={"type": "object"})
