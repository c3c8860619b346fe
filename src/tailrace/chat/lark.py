"""Grammars in llguidance's Lark, written rule by rule: text, control tokens, and JSON by a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

#: How JSON is written in calls: on one line, as structured output is.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
#: Text up to what follows in the grammar.
ANY = r"/(.|\n)*/"


class Lark:
    """Gathers rules. Names are made here, so that several pieces fit into one grammar."""

    def __init__(self, controls: Mapping[str, int]) -> None:
        """``controls``: the model's control tokens, by their text. In a reply they are no text, but tokens."""
        self._controls = controls
        self._rules: list[str] = []
        self._known: dict[str, str] = {}

    def literal(self, text: str) -> str:
        """The text, in which markers are the model's control tokens where it has them; "" for none."""
        present = [marker for marker in self._controls if marker and marker in text]
        if not present:
            return _quoted(text)
        pattern = "|".join(re.escape(marker) for marker in sorted(present, key=len, reverse=True))
        pieces = re.split(f"({pattern})", text)
        return " ".join(
            f"<[{self._controls[piece]}]>" if piece in self._controls else _quoted(piece) for piece in pieces if piece
        )

    def schema(self, schema: Mapping[str, Any]) -> str:
        """JSON that fits the schema."""
        options = schema.get("x-guidance")
        guided = {**schema, "x-guidance": {**_JSON, **(options if isinstance(options, dict) else {})}}
        return self.rule("json", "%json " + json.dumps(guided))

    def rule(self, name: str, body: str) -> str:
        """A rule of that body; its name, which begins with ``name``."""
        return self._named(name.lower(), body)

    def terminal(self, name: str, body: str) -> str:
        """A terminal of that regular expression."""
        return self._named(name.upper(), body)

    def until(self, end: str, without: Iterable[str] = ()) -> str:
        """Free text, up to and including ``end`` at its first occurrence. What matches one of the regular expressions
        ``without`` can't be in it: see ``pattern``.
        """
        text = ANY
        if barred := "|".join(without):
            text = f"{ANY} & ~/(.|\\n)*({barred})(.|\\n)*/"
        if end in self._controls:
            return f"{self.terminal('any', text)} {self.literal(end)}"
        known = f"until {end} {text}"
        if known not in self._known:
            self._known[known] = f"until_{len(self._rules)}"
            self._rules.append(f"{self._known[known]}[suffix={json.dumps(end, ensure_ascii=False)}]: {text}")
        return self._known[known]

    def text(self, **rules: str) -> str:
        """The grammar, with these rules besides."""
        return "\n".join([*(f"{name}: {body}" for name, body in rules.items()), *self._rules])

    def _named(self, name: str, body: str) -> str:
        known = f"{name}: {body}"
        if known not in self._known:
            self._known[known] = f"{name}_{len(self._rules)}"
            self._rules.append(f"{self._known[known]}: {body}")
        return self._known[known]


def pattern(text: str) -> str:
    """The regular expression of a text."""
    return "".join(
        character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):x}}}" for character in text
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
