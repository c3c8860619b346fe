"""Reads an HTTP/1.1 answer out of the pieces in which it came: its status, its body, and when each event was there."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

_EVENT = re.compile(rb"^data: ?([^\r\n]*)\r?\n", re.MULTILINE)


class Answer:
    """``parts[i]`` was there at ``moments[i]``. What was left before its end is read as far as it goes."""

    def __init__(self, parts: Sequence[bytes], moments: Sequence[float]) -> None:
        raw = b"".join(parts)
        self._moments = moments
        self._came = list(accumulate(map(len, parts)))  #: bytes that were there at each moment
        head, _, _ = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status_line = lines[0]  #: empty when nothing came
        start = len(head) + 4
        chunked = any(line.lower().replace(" ", "") == "transfer-encoding:chunked" for line in lines[1:])
        pieces = list(_chunks(raw, start)) if chunked else [(start, len(raw))]
        self.body = b"".join(raw[begin:end] for begin, end in pieces)
        self._ends = [end for _, end in pieces]  #: of each piece of the body, in what came
        self._lengths = list(accumulate(end - begin for begin, end in pieces))  #: of the body up to there

    @property
    def ok(self) -> bool:
        """Whether the status is 200."""
        return self.status_line.split(" ")[1:2] == ["200"]

    def events(self) -> list[tuple[float, bytes]]:
        """Each event's data, and the moment at which the last byte of its line was there."""
        return [(self._moment(match.end()), match[1]) for match in _EVENT.finditer(self.body)]

    def _moment(self, length: int) -> float:
        """When so many bytes of the body were there."""
        piece = bisect_left(self._lengths, length)
        position = self._ends[piece] - (self._lengths[piece] - length)
        return self._moments[bisect_left(self._came, position)]


def _chunks(raw: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Beginning and end of each chunk's data; the last one's may be cut off."""
    while (line := raw.find(b"\r\n", start)) >= 0:
        size = int(raw[start:line].partition(b";")[0], 16)
        if size == 0:
            return
        yield line + 2, min(line + 2 + size, len(raw))
        start = line + 2 + size + 2
