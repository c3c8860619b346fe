"""Parses an HTTP/1.1 response from its received pieces: its status, its body, and the time of each event."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

_EVENT = re.compile(rb"^data: ?([^\r\n]*)\r?\n", re.MULTILINE)


class ParsedResponse:
    """A response whose ``parts[i]`` arrived at ``part_times[i]``. An incomplete response is parsed as far as it goes.

    Raises ValueError for a chunk without a size.
    """

    def __init__(self, parts: Sequence[bytes], part_times: Sequence[float]) -> None:
        raw = b"".join(parts)
        self._part_times = part_times
        self._received = list(accumulate(map(len, parts)))  #: bytes received until each part's time
        head, _, _ = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status_line = lines[0]  #: empty without a response
        start = len(head) + 4
        chunked = any(line.lower().replace(" ", "") == "transfer-encoding:chunked" for line in lines[1:])
        pieces = list(_chunks(raw, start)) if chunked else [(start, len(raw))]
        self.body = b"".join(raw[begin:end] for begin, end in pieces)
        self._ends = [end for _, end in pieces]  #: offset of each body piece's end in the received bytes
        self._lengths = list(accumulate(end - begin for begin, end in pieces))  #: of the body until that end

    @property
    def ok(self) -> bool:
        """Whether the status is 200."""
        return self.status_line.split(" ")[1:2] == ["200"]

    def events(self) -> list[tuple[float, bytes]]:
        """The data of each event, with the time of the last byte of its line."""
        return [(self._time_of(match.end()), match[1]) for match in _EVENT.finditer(self.body)]

    def _time_of(self, length: int) -> float:
        """The time at which that many bytes of the body had arrived."""
        piece = bisect_left(self._lengths, length)
        position = self._ends[piece] - (self._lengths[piece] - length)
        return self._part_times[bisect_left(self._received, position)]


def _chunks(raw: bytes, start: int) -> Iterator[tuple[int, int]]:
    """The start and end of each chunk's data; the last chunk may be incomplete."""
    while (line := raw.find(b"\r\n", start)) >= 0:
        size = int(raw[start:line].partition(b";")[0], 16)
        if size == 0:
            return
        yield line + 2, min(line + 2 + size, len(raw))
        start = line + 2 + size + 2
