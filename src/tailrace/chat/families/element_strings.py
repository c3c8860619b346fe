"""The grammar of a string with a pattern, a format or bounds, where it is written without quotes."""

from __future__ import annotations

import re
from typing import Any

#: Formats as regular expressions. Others are left to the model.
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
#: What the grammar's regular expressions read otherwise than a schema's, within a pattern.
_UNUSUAL = re.compile(r"\\[bBAzZpPkK]|\(\?(?!:)|(?<!\\)(?:\\\\)*[$^](?!\])")
_IN_CLASS = re.compile(r"\[(?:[^\]\\]|\\.)*\]")


def string_terminal(schema: dict[str, Any], *, containers: bool) -> str | None:
    """A terminal for such strings; None where a grammar can't hold them without quotes. ``containers``: strings that
    begin as a list or an object are kept out.
    """
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    # Without the character that begins a tag, its length can be counted.
    terminals = [f"/[^<\\n]{{{least},{most}}}/"]
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
    """The expression for a whole text of which ``pattern`` matches a part."""
    begins = pattern.startswith("^")
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begins : len(pattern) - ends]
    if _UNUSUAL.search(_IN_CLASS.sub("[]", inner)):
        return None
    if (begins or ends) and "|" in _IN_CLASS.sub("", re.sub(r"\\.", "", inner)) and not inner.startswith("("):
        return None  # An anchor that belongs to one alternative.
    escaped = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", inner)
    before, behind = "" if begins else r"(.|\n)*", "" if ends else r"(.|\n)*"
    return f"{before}({escaped}){behind}"
