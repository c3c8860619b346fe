"""Bounds the structure of a large JSON body before it is decoded: depth, objects and lists, their members, and values.

Decoding makes an object of each value. A body of 32 MB can have ten million empty lists, which take a gigabyte and
hold up the event loop for a second. The body is looked at in slices, so that a thread that does it lets others run.
"""

from __future__ import annotations

from itertools import accumulate

from tailrace.chat.json_depth import MAX_JSON_DEPTH, path_of_excess
from tailrace.errors import InvalidRequest

#: Objects and lists of a body, members of its objects, and values that are separated by commas. Decoding so many takes
#: up to 50 ms each.
MAX_CONTAINERS = 200_000
MAX_MEMBERS = 250_000
MAX_VALUES = 1_000_000
#: Bytes of a slice, which takes up to 3 ms.
_SLICE = 65_536

_KEPT = b'{}[],:"'
_DROPPED = bytes(byte for byte in range(256) if byte not in _KEPT)
#: Each bracket's change of depth, as a signed byte.
_CHANGES = bytes(1 if byte in b"{[" else 255 if byte in b"}]" else 0 for byte in range(256))


def check_structure(body: bytes) -> None:
    """Raise InvalidRequest for a body that has too much of something, if it is JSON."""
    depth = containers = members = commas = 0
    in_string = False
    start = 0
    while start < len(body):
        end = start + _SLICE
        while body[end - 1 : end] == b"\\":  # The slice ends before an escape or behind it.
            end += 1
        bare = body[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _DROPPED)
        parts = bare.split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0
        start = end
        commas += outside.count(b",")
        members += outside.count(b":")
        containers += outside.count(b"{") + outside.count(b"[")
        if containers > MAX_CONTAINERS:
            raise _too_many(f"{MAX_CONTAINERS} objects and lists")
        if members > MAX_MEMBERS:
            raise _too_many(f"{MAX_MEMBERS} members of objects")
        if commas > MAX_VALUES:
            raise _too_many(f"{MAX_VALUES} values")
        depths = [depth, *accumulate(memoryview(outside.translate(_CHANGES)).cast("b"), initial=depth)]
        if max(depths) > MAX_JSON_DEPTH:
            raise too_deep(body)
        depth = depths[-1]


def too_deep(body: bytes) -> InvalidRequest:
    """The error of a body that is nested too deeply."""
    path = path_of_excess(body)
    what = f"'{path}'" if path else "The request's body"
    return InvalidRequest(
        f"{what} is nested too deeply: a body may have {MAX_JSON_DEPTH} levels of objects and lists.",
        param=path or None,
        code=None if path else "invalid_json",
    )


def _too_many(what: str) -> InvalidRequest:
    return InvalidRequest(f"The request's body is too complex: it may have at most {what}.", code="body_too_complex")
