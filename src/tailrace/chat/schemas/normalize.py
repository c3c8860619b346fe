"""Normalizes a JSON schema to the form that a grammar can express. (llama.cpp: json-schema-to-grammar.)

- Annotations are removed. Constraints that no grammar can express are refused under ``strict``, and otherwise left out.
- An object with named members has no others, unless the schema allows them. Models would invent members without end.
  llama.cpp's converter does the same.
- Numbers have at most 16 digits before the point and 10 after it, where the schema sets no bound.
"""

from __future__ import annotations

from typing import Any

from tailrace.chat.json_depth import MAX_JSON_DEPTH
from tailrace.chat.schemas.json_pointer import at_pointer
from tailrace.chat.schemas.keywords import (
    ARRAY_KEYWORDS,
    CHOICE_KEYWORDS,
    FORMATS,
    NUMBER_KEYWORDS,
    OBJECT_KEYWORDS,
    STRING_KEYWORDS,
    SUPPORTED,
    UNSUPPORTED,
    Schema,
    constrains,
    invalid_keyword,
    is_regular,
    to_current_draft,
)
from tailrace.chat.schemas.merge_schemas import merge_schemas
from tailrace.errors import TailraceError

#: The largest number of 16 digits, and the smallest step that the grammar library supports.
_LARGEST = 10**16 - 1
_STEP = 1e-10
#: A range narrower than this gets no step.
_NARROW_RANGE = 1e-6
#: Schemas within a schema, with alternatives multiplied.
_MAX_SCHEMAS = 20_000
_ANY = "any"


class SchemaError(TailraceError):
    """No grammar can express the schema. The message has the reason, for the schema's author."""


def normalize_schema(schema: Any, *, strict: bool = False) -> Any:
    """The form of ``schema`` that a grammar can express. Raises SchemaError for schemas that are too large, and with
    ``strict`` for constraints that no grammar can express.
    """
    if not isinstance(schema, dict):
        return schema
    return _Normalizer(schema, strict=strict).document()


class _Normalizer:
    """Normalizes one document."""

    def __init__(self, root: Schema, *, strict: bool) -> None:
        self._root = root
        self._strict = strict
        self._names: dict[int, str] = {}  #: names of referenced schemas, by identity
        self._pending: list[tuple[str, Any]] = []
        self._uses_any = False
        self._by_id: dict[str, Any] | None = None
        self._count = 0

    def document(self) -> Any:
        normalized = self._schema(self._root)
        definitions: Schema = {}
        while self._pending:
            name, target = self._pending.pop()
            definitions[name] = self._schema(target)
        if self._uses_any:
            definitions[_ANY] = _any_value()
        if not isinstance(normalized, dict):
            return normalized
        options = self._root.get("x-guidance")
        return {
            **normalized,
            **({"$defs": definitions} if definitions else {}),
            **({"x-guidance": options} if isinstance(options, dict) else {}),
        }

    def _schema(self, schema: Any, depth: int = 0) -> Any:
        self._count += 1
        if self._count > _MAX_SCHEMAS or depth > MAX_JSON_DEPTH:
            raise SchemaError("it is too complex: its parts and alternatives are too many, or nested too deeply")
        if schema is True or schema == {}:
            return self._anything()
        if not isinstance(schema, dict):
            return schema
        if (target := self._bare_reference(schema)) is not None:
            return target
        flat = self._flat(schema, ())
        for choice in ("anyOf", "oneOf"):
            branches = flat.get(choice)
            if isinstance(branches, list) and OBJECT_KEYWORDS.intersection(flat):
                base = {key: value for key, value in flat.items() if key != choice}
                apart = [self._with_base(base, branch) for branch in branches]
                return {self._choice(choice): [self._schema(branch, depth + 1) for branch in apart]}
        return self._without_branches(flat, depth)

    def _without_branches(self, flat: Schema, depth: int) -> Schema:
        """A schema in which no reference or alternative affects an object's members."""
        out: Schema = {}
        if "unevaluatedProperties" in flat and "additionalProperties" not in flat:
            # All subschemas with properties are merged, so both keywords mean the same here.
            flat = {**flat, "additionalProperties": flat["unevaluatedProperties"]}
        for key, value in flat.items():
            if key in UNSUPPORTED:
                self._leave_out(key, flat)
            elif key == "format":
                if isinstance(value, str) and value in FORMATS:
                    out[key] = value
            elif key == "pattern" and isinstance(value, str) and not is_regular(value):
                if self._strict:
                    raise SchemaError(f"'pattern' can't be held with look-around or references back: {value[:100]}")
            elif key in ("properties", "patternProperties") and isinstance(value, dict):
                out[key] = {}
                for name, inner in value.items():
                    out[key][name] = self._schema(inner, depth + 1)
            elif key in ("items", "additionalProperties"):
                out[key] = self._schema(value, depth + 1)
            elif key in ("allOf", "anyOf", "oneOf", "prefixItems") and isinstance(value, list):
                out[self._choice(key)] = normalized = []
                for inner in value:
                    alternative = self._schema(inner, depth + 1)
                    if key != "allOf" or alternative != self._anything():
                        normalized.append(alternative)
            elif key in SUPPORTED:
                out[key] = value
        if out.get("allOf") == []:
            del out["allOf"]
        _infer_type(out)
        if {"anyOf", "oneOf", "$ref", "enum", "const"}.intersection(out):
            return out
        types = out.get("type")
        kinds = {types} if isinstance(types, str) else set(types) if isinstance(types, list) else set()
        if "object" in kinds:
            self._close(out)
        if "array" in kinds and "items" not in out:
            out["items"] = self._anything()
        if kinds & {"integer", "number"}:
            _bound(out, fractions="number" in kinds)
        return out or self._anything()

    def _close(self, out: Schema) -> None:
        if "additionalProperties" in out:
            return
        if "properties" not in out and "patternProperties" not in out:
            out["additionalProperties"] = self._anything()
            return
        out["additionalProperties"] = False
        if "patternProperties" not in out and isinstance(out["properties"], dict):
            for name in out.get("required") or ():
                if name not in out["properties"]:
                    out["properties"][name] = self._anything()

    def _leave_out(self, key: str, flat: Schema) -> None:
        if self._strict and constrains(key, flat):
            raise SchemaError(f"'{key}' can't be held to by a grammar")

    def _choice(self, key: str) -> str:
        """``oneOf`` can be expressed for some schemas alone. Without ``strict`` it becomes ``anyOf``."""
        return "anyOf" if key == "oneOf" and not self._strict else key

    # References

    def _bare_reference(self, schema: Schema) -> Schema | None:
        """A reference without constraints beside it, by its target's new name; None for other schemas."""
        reference = schema.get("$ref")
        if not isinstance(reference, str) or any(
            key in SUPPORTED or key in UNSUPPORTED for key in schema if key != "$ref"
        ):
            return None
        target = self._target(reference)
        if target is None:
            return {"$ref": reference}
        return {"$ref": f"#/$defs/{self._name(target)}"}

    def _name(self, target: Any) -> str:
        name = self._names.get(id(target))
        if name is None:
            name = self._names[id(target)] = f"d{len(self._names)}"
            self._pending.append((name, target))
        return name

    def _target(self, reference: str) -> Any:
        """The target of a reference within the document; None where there is none."""
        pointer = reference[1:] if reference.startswith("#") else None
        if pointer is None or (pointer and not pointer.startswith("/")):
            return self._by_identity().get(reference.removeprefix("#"))
        return at_pointer(self._root, pointer)

    def _by_identity(self) -> dict[str, Any]:
        """Schemas by their ``$id`` and ``$anchor``."""
        if self._by_id is None:
            self._by_id = {}
            waiting: list[Any] = [self._root]
            while waiting:
                value = waiting.pop()
                if isinstance(value, dict):
                    for key in ("$id", "$anchor", "id"):
                        if isinstance(value.get(key), str):
                            self._by_id.setdefault(value[key].removeprefix("#"), value)
                    waiting += value.values()
                elif isinstance(value, list):
                    waiting += value
        return self._by_id

    # Schemas that apply together

    def _flat(self, schema: Schema, within: tuple[int, ...]) -> Schema:
        """The schema with its references and ``allOf`` merged into it."""
        if len(within) > 32 or id(schema) in within:
            raise SchemaError("its references and 'allOf' lead in a circle")
        self._count += 1
        if self._count > _MAX_SCHEMAS:
            raise SchemaError("it is too complex: its parts and alternatives are too many")
        flat = to_current_draft({key: value for key, value in schema.items() if key not in ("$ref", "allOf")})
        if (wrong := invalid_keyword(flat)) is not None:
            raise SchemaError(f"the value of '{wrong}' has a type that it can't have in a schema")
        parts: list[Any] = []
        reference = schema.get("$ref")
        if isinstance(reference, str):
            target = self._target(reference)
            if target is None:
                flat["$ref"] = reference
            else:
                parts.append(target)
        beside = schema.get("allOf")
        parts += beside if isinstance(beside, list) else []
        for part in parts:
            if isinstance(part, dict):
                flat = merge_schemas(flat, self._flat(part, (*within, id(schema))))
            elif part is False:
                flat = merge_schemas(flat, {"enum": []})
        return flat

    def _with_base(self, base: Schema, branch: Any) -> Any:
        """An alternative merged with the keywords beside the alternatives."""
        if not isinstance(branch, dict):
            return base if branch is True else branch
        return merge_schemas(base, self._flat(branch, ()))

    def _anything(self) -> Schema:
        self._uses_any = True
        return {"$ref": f"#/$defs/{_ANY}"}


def _any_value() -> Schema:
    number: Schema = {"type": "number"}
    _bound(number, fractions=True)
    any_value = {"$ref": f"#/$defs/{_ANY}"}
    return {
        "anyOf": [
            {"type": ["null", "boolean", "string"]},
            number,
            {"type": "array", "items": any_value},
            {"type": "object", "additionalProperties": any_value},
        ]
    }


def _infer_type(out: Schema) -> None:
    """Add the type that the other keywords imply, where the schema has none."""
    if "type" in out or CHOICE_KEYWORDS.intersection(out) or {"enum", "const", "$ref", "allOf"}.intersection(out):
        return
    for words, kind in (
        (OBJECT_KEYWORDS, "object"),
        (ARRAY_KEYWORDS, "array"),
        (STRING_KEYWORDS, "string"),
        (NUMBER_KEYWORDS, "number"),
    ):
        if words.intersection(out):
            out["type"] = kind
            return


def _bound(out: Schema, *, fractions: bool) -> None:
    lowest = max((out[key] for key in ("minimum", "exclusiveMinimum") if _is_number(out.get(key))), default=None)
    highest = min((out[key] for key in ("maximum", "exclusiveMaximum") if _is_number(out.get(key))), default=None)
    if lowest is None and (highest is None or highest > -_LARGEST):
        out["minimum"] = -_LARGEST
    if highest is None and (lowest is None or lowest < _LARGEST):
        out["maximum"] = _LARGEST
    narrow = lowest is not None and highest is not None and highest - lowest < _NARROW_RANGE
    if fractions and "multipleOf" not in out and not narrow:
        out["multipleOf"] = _STEP


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
