"""Measures how deeply JSON text is nested, before it is decoded.

Decoders, encoders, templates and grammars recurse. One bound protects them all. It is checked where text comes in:
request bodies in ``server/decode``, and JSON within strings where it is decoded.
"""

from __future__ import annotations

import re
from itertools import accumulate

#: Levels of objects and lists that JSON may have. Python's recursion ends at 1,000 frames, of which a walk takes up to
#: three a level.
MAX_JSON_DEPTH = 256

_STRUCTURE = b'{}[]"'
_DROPPED = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
#: Each bracket's change of depth, as a signed byte.
_CHANGES = bytes(1 if byte in b"{[" else 255 if byte in b"}]" else 0 for byte in range(256))
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
#: Bytes of a text in which the path is searched: a search takes a microsecond a byte.
_MAX_SEARCHED = 100_000


def is_too_deep(text: str | bytes) -> bool:
    """Whether ``text``, if it is JSON, has more than ``MAX_JSON_DEPTH`` levels. Linear in the text."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if data.count(b"{") + data.count(b"[") <= MAX_JSON_DEPTH:
        return False
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _DROPPED)
    outside = b"".join(bare.split(b'"')[::2])
    return max(accumulate(memoryview(outside.translate(_CHANGES)).cast("b")), default=0) > MAX_JSON_DEPTH


def path_of_excess(data: bytes, levels: int = 5) -> str:
    """The path in ``data`` to the value that exceeds the bound: its first ``levels``, such as ``tools[0].function``.
    "" where the value is in no field, or not within the first 100,000 bytes.
    """
    path: list[str | int] = []
    is_list: list[bool] = []
    text = b""
    for token in _TOKEN.finditer(data, 0, _MAX_SEARCHED):
        found = token[0]
        if found in (b"{", b"["):
            is_list.append(found == b"[")
            path.append(0 if found == b"[" else "")
            if len(is_list) > MAX_JSON_DEPTH:
                return _written(path[:levels])
        elif found in (b"}", b"]"):
            if is_list:
                is_list.pop()
                path.pop()
        elif found == b",":
            if is_list and is_list[-1]:
                path[-1] = int(path[-1] or 0) + 1
        elif is_list and not is_list[-1] and data[token.end() : token.end() + 16].lstrip()[:1] == b":":
            text = found[1:-1]
            path[-1] = text.decode("utf-8", "replace")
    return ""


def _written(path: list[str | int]) -> str:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in path]
    return "".join(steps).removeprefix(".") if steps and isinstance(path[0], str) else ""
