"""The maxima that the output matrix's product has stored of the present logits."""

from __future__ import annotations


class RowMaxima:
    """The group maxima of ``count`` consecutive rows of ``size`` logits, which start at the address ``rows``.

    A group is 256 logits, and has 16 float32 maxima, one for each SIMD lane: lane t % 16 of group t // 256 is the
    greatest of its 16 logits t. Each row has ceil(size / 256) groups; those of all rows start at the address
    ``maxima``. No row has a NaN. Only ``LogitsOps.apply`` keeps the maxima true: code that changes a row otherwise must
    call ``set_row_maxima(None)``.
    """

    __slots__ = ("_end", "_maxima", "_maxima_bytes", "_row_bytes", "_rows")

    def __init__(self, rows: int, count: int, size: int, maxima: int) -> None:
        self._rows, self._maxima = rows, maxima
        self._row_bytes, self._maxima_bytes = 4 * size, 64 * -(-size // 256)
        self._end = rows + count * self._row_bytes

    def at(self, row: int, count: int = 1) -> int | None:
        """The address of the maxima of ``count`` rows from the address ``row`` on; None where there are none."""
        if not self._rows <= row <= self._end - count * self._row_bytes:
            return None
        number, rest = divmod(row - self._rows, self._row_bytes)
        return None if rest else self._maxima + number * self._maxima_bytes


NO_MAXIMA = RowMaxima(1, 0, 1, 0)
