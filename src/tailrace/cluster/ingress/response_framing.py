"""Where a replica's response ends: the head's fields, and whole chunks of a chunked body.

A replica is a server of tailrace, so the grammar is what that one writes: no chunk extensions, no trailers. Anything
else is a defect, and raises ValueError.
"""

from __future__ import annotations

from typing import NamedTuple

#: Bytes of a chunk of which no part is passed on before all of it is there. A replica that is lost in the middle of an
#: event leaves a stream that can still end with an error.
HELD_CHUNK = 65_536
#: Max bytes of a response's head, and of a chunk's size with its line feed.
_MAX_HEAD = 65_536
_MAX_SIZE_LINE = 18


class ResponseHead(NamedTuple):
    """A head's fields that matter to a relay. ``length`` None: the body is chunked, or ends with the connection."""

    status: int
    length: int | None
    chunked: bool
    closes: bool  #: the connection ends with the response
    content_type: bytes


def split_head(data: bytes) -> tuple[bytes, bytes] | None:
    """The first head in ``data``, with its empty line, and the rest; None: it isn't whole yet."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > _MAX_HEAD:
            raise ValueError("the response's head is too long")
        return None
    return data[: end + 4], data[end + 4 :]


def parse_head(head: bytes, method: str) -> ResponseHead:
    """The fields of a head, which answers a request with this method (RFC 9112, section 6.3)."""
    status_line, *lines = head[:-4].split(b"\r\n")
    version, _, rest = status_line.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError("this is no HTTP response")
    status = int(rest[:3])
    length: int | None = None
    chunked = closes = False
    content_type = b""
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if name == b"content-length":
            length = int(value)
            if length < 0:
                raise ValueError("the response's length is negative")
        elif name == b"transfer-encoding":
            chunked = value.lower() == b"chunked"
        elif name == b"connection":
            closes = value.lower() == b"close"
        elif name == b"content-type":
            content_type = value
    if method == "HEAD" or status in (204, 304) or status < 200:
        length, chunked = 0, False
    return ResponseHead(status, length, chunked, closes, content_type)


class ChunkedFraming:
    """The chunks of one body, as they come."""

    __slots__ = ("_partial", "_passing", "ended")

    def __init__(self) -> None:
        self.ended = False  #: the chunk that ends the body has been taken
        self._partial = b""  #: the beginning of a chunk
        self._passing = 0  #: bytes that are missing of a chunk whose beginning was passed on

    @property
    def is_between_chunks(self) -> bool:
        """Whether another chunk may be written behind what was passed on."""
        return not self._passing

    def take(self, data: bytes) -> bytes:
        """The bytes to pass on now: whole chunks, and parts of large ones. Raises ValueError on what is no chunk."""
        if self._partial:
            data, self._partial = self._partial + data, b""
        size = len(data)
        position = self._passing
        if position > size:
            self._passing -= size
            return data
        self._passing = 0
        while position < size:
            line_end = data.find(b"\r\n", position, position + _MAX_SIZE_LINE)
            if line_end < 0:
                if size - position >= _MAX_SIZE_LINE:
                    raise ValueError("a chunk has no size")
                break
            length = int(data[position:line_end], 16)
            if length < 0:
                raise ValueError("a chunk's size is negative")
            end = line_end + length + 4
            if end > size:
                if length > HELD_CHUNK:
                    self._passing = end - size
                    return data
                break
            if not length:
                self.ended = True
                if end != size:
                    raise ValueError("bytes behind the end of a response")
            position = end
        if position == size:
            return data
        self._partial = data[position:]
        return data[:position]
