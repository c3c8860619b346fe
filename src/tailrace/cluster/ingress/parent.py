"""The ingress's parent: its orders come over standard input, and reports go to standard output.

Reports never block: what the parent doesn't read is dropped, because a newer report replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

import msgspec
import structlog

from tailrace.cluster.ingress.orders import Order, Report, decode_order, encode

#: Max bytes of an order.
_MAX_LINE = 1_000_000


class Parent:
    """See the module. ``on_order`` gets each order, ``on_gone`` is called when the parent has ended."""

    def __init__(self, input_fd: int, output_fd: int) -> None:
        """Both are this process's own: they are switched to non-blocking."""
        self.on_order: Callable[[Order], None] = lambda order: None
        self.on_gone: Callable[[], None] = lambda: None
        self._input = input_fd
        self._output = output_fd
        self._rest = b""
        self._log = structlog.get_logger()

    def take(self, lines: bytes) -> None:
        """Take these orders."""
        self._rest += lines
        self._take_lines()

    def listen(self) -> None:
        """Take orders from standard input from now on."""
        for descriptor in (self._input, self._output):
            os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(self._input, self._read)

    def report(self, message: Report) -> None:
        """Send a report."""
        with contextlib.suppress(BlockingIOError, OSError):  # The parent is busy, or gone.
            os.write(self._output, encode(message))

    def _read(self) -> None:
        try:
            data = os.read(self._input, 65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._input)
            self.on_gone()
            return
        self._rest += data
        self._take_lines()

    def _take_lines(self) -> None:
        *lines, self._rest = self._rest.split(b"\n")
        if len(self._rest) > _MAX_LINE:
            self._log.error("an order is too long, and dropped", bytes=len(self._rest))
            self._rest = b""
        for line in filter(None, lines):
            try:
                order = decode_order(line)
            except msgspec.MsgspecError as error:
                self._log.error("an order can't be read", error=str(error))
                continue
            self.on_order(order)


def read_first_line(descriptor: int) -> tuple[bytes, bytes]:
    """The first line of an input, and what came behind it. Blocks; both are empty where the input ends first."""
    data = b""
    while b"\n" not in data:
        piece = os.read(descriptor, 65_536)
        if not piece:
            return b"", b""
        data += piece
    line, _, rest = data.partition(b"\n")
    return line, rest
