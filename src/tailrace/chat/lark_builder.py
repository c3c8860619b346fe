"""Builds grammars in llguidance's Lark, rule by rule: text, control tokens, and JSON by a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

#: JSON of calls is written on one line, like other structured output.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
#: Free white space in JSON. It is bounded, because small models would write it without end.
_GAP = r"[ ]|\n[ \t]{0,20}"
_LOOSE_JSON = {"whitespace_flexible": True, "whitespace_pattern": _GAP}
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]')
#: Keywords without which an object may be empty.
_NEEDED = frozenset({"required", "minProperties", "anyOf", "oneOf", "allOf", "$ref", "enum", "const"})
#: Any text.
ANY_TEXT = r"/(.|\n)*/"


class LarkBuilder:
    """Collects rules. Names are made here, so several pieces fit into one grammar."""

    def __init__(self, controls: Mapping[str, int], *, loose: bool = False) -> None:
        """``controls``: the model's control tokens, by their text. The grammar has them as tokens, not as text.
        ``loose``: white space in and around JSON is free.
        """
        self._loose = loose
        self._controls = controls
        self._rules: list[str] = []
        self._known: dict[str, str] = {}

    def literal(self, text: str) -> str:
        """The text as an expression: control tokens as tokens, the rest as strings; "" for no text."""
        return " ".join(f"<[{piece}]>" if isinstance(piece, int) else _quoted(piece) for piece in self.pieces(text))

    def pieces(self, text: str) -> tuple[str | int, ...]:
        """The text in pieces: ids of control tokens, and the texts between them."""
        present = [marker for marker in self._controls if marker and marker in text]
        if not present:
            return (text,) if text else ()
        pattern = "|".join(re.escape(marker) for marker in sorted(present, key=len, reverse=True))
        return tuple(self._controls.get(piece, piece) for piece in re.split(f"({pattern})", text) if piece)

    def gap(self, text: str) -> str:
        """White space: exactly ``text``, or any where JSON is loose."""
        return f"({self.terminal('gap', f'/{_GAP}/')})?" if self._loose else self.literal(text)

    def optional(self, expression: str) -> str:
        """The expression, which may be left out where JSON is loose."""
        return f"({expression})?" if self._loose else expression

    def json(self, text: str) -> str:
        """A piece of JSON, with free white space where it is loose."""
        if not self._loose:
            return self.literal(text)
        return f" {self.gap('')} ".join(_quoted(token) for token in _JSON_TOKEN.findall(text))

    def call(self, name: str, key: str, schema: Mapping[str, Any], more: str = "") -> str:
        """The JSON object of a call: its function's name, arguments that fit the schema as the member ``key``, and
        ``more`` members, as an expression.
        """
        head, member = self.json(f'{{"name": {json.dumps(name)}'), self.json(f', "{key}":')
        member = f"{self.gap('')} {member} {self.gap(' ')} {self.schema(schema)}"
        if not _NEEDED.intersection(schema):
            member = self.optional(member)
        return f"{head} {member} {self.gap('')} {more} {self.literal('}')}"

    def schema(self, schema: Mapping[str, Any]) -> str:
        """JSON that fits the schema."""
        options = schema.get("x-guidance")
        style = _LOOSE_JSON if self._loose else _JSON
        guided = {**schema, "x-guidance": {**style, **(options if isinstance(options, dict) else {})}}
        return self.rule("json", "%json " + json.dumps(guided))

    def rule(self, name: str, body: str) -> str:
        """A rule of that body; its name, which begins with ``name``."""
        return self._named(name.lower(), body)

    def terminal(self, name: str, body: str) -> str:
        """A terminal of that regular expression."""
        return self._named(name.upper(), body)

    def until(self, end: str, without: Iterable[str] = (), *, not_begun: str | None = None) -> str:
        """Any text, up to and including the first occurrence of ``end``. Excluded are texts that contain a match of a
        regular expression in ``without`` (see ``escape_regex``), or that begin with a match of ``not_begun``.
        """
        text = ANY_TEXT
        if excluded := "|".join(without):
            text = f"{ANY_TEXT} & ~/(.|\\n)*({excluded})(.|\\n)*/"
        if not_begun is not None:
            text += f" & ~/{not_begun}(.|\\n)*/"
        if end in self._controls:
            return f"{self.terminal('any', text)} {self.literal(end)}"
        known = f"until {end} {text}"
        if known not in self._known:
            self._known[known] = f"until_{len(self._rules)}"
            self._rules.append(f"{self._known[known]}[suffix={json.dumps(end, ensure_ascii=False)}]: {text}")
        return self._known[known]

    def text(self, **rules: str) -> str:
        """The whole grammar, with these further rules."""
        return "\n".join([*(f"{name}: {body}" for name, body in rules.items()), *self._rules])

    def _named(self, name: str, body: str) -> str:
        known = f"{name}: {body}"
        if known not in self._known:
            self._known[known] = f"{name}_{len(self._rules)}"
            self._rules.append(f"{self._known[known]}: {body}")
        return self._known[known]


def escape_regex(text: str) -> str:
    """The regular expression that matches just this text."""
    return "".join(
        character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):x}}}" for character in text
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
