"""The grammar of a string without quotes, with a pattern, a format or bounds of its length."""

from __future__ import annotations

import re
from typing import Any

#: Formats as regular expressions. Other formats are not constrained.
_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "email": r"[A-Za-z0-9_]+([.+-][A-Za-z0-9_]+)*@[A-Za-z0-9]+(-[A-Za-z0-9]+)*(\.[A-Za-z0-9]+(-[A-Za-z0-9]+)*)+",
    "ipv4": r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
}
#: Syntax whose meaning differs between the grammar's regular expressions and a schema's.
_UNUSUAL = re.compile(r"\\[bBAzZpPkK]|\(\?(?!:)|(?<!\\)(?:\\\\)*[$^](?!\])")
_IN_CLASS = re.compile(r"\[(?:[^\]\\]|\\.)*\]")


def string_terminal(schema: dict[str, Any], *, containers: bool) -> str | None:
    """A terminal for such strings; None where no grammar can express them without quotes. ``containers``: strings that
    begin like a list or an object are excluded.
    """
    min_length, max_length = schema.get("minLength", 0), schema.get("maxLength", "")
    # Without the character that begins a tag, the length can be counted.
    terminals = [f"/[^<\\n]{{{min_length},{max_length}}}/"]
    if "pattern" in schema:
        whole = _whole(schema["pattern"])
        if whole is None:
            return None
        terminals.append(f"/{whole}/")
    if schema.get("format") in _FORMATS:
        terminals.append(f"/{_FORMATS[schema['format']]}/")
    if containers:
        terminals.append(r"~/[ \t\r]*[\[{](.|\n)*/")
    return " & ".join(terminals)


def _whole(pattern: str) -> str | None:
    """The expression for a whole text that contains a match of ``pattern``."""
    begins = pattern.startswith("^")
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begins : len(pattern) - ends]
    if _UNUSUAL.search(_IN_CLASS.sub("[]", inner)):
        return None
    if (begins or ends) and "|" in _IN_CLASS.sub("", re.sub(r"\\.", "", inner)) and not inner.startswith("("):
        return None  # An anchor that belongs to one alternative.
    escaped = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", inner)
    before, after = "" if begins else r"(.|\n)*", "" if ends else r"(.|\n)*"
    return f"{before}({escaped}){after}"
