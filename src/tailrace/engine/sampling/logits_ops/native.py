"""The questions to rows of logits in C (``*.c``), where a library has been made of them (``build``).

Each is one call of 1 µs beside its pass. It keeps the GIL: whoever took it meanwhile could have it for 5 ms, and the
longest pass takes less than one.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tailrace.engine.sampling.logits_ops.changes import Changes
from tailrace.engine.sampling.logits_ops.narrowing import Narrowed, Steps
from tailrace.engine.sampling.logits_ops.numpy_impl import BLOCK, COLDEST, Ids, LogitsRow, Mask, Numbers
from tailrace.engine.sampling.logits_ops.repeats import Lengths, Tokens

_Address = ctypes.c_void_p
_Many = ctypes.c_int64
_Float = ctypes.c_float
_LOWEST = float(np.finfo(np.float32).min)


def _address(array: Any) -> int:
    """Where a contiguous array that can be written begins: a fourth of the time that ``array.ctypes.data`` takes.
    Raises TypeError for others.
    """
    return ctypes.addressof(ctypes.c_char.from_buffer(array))


class RowMaxima:
    """What has been kept of ``many`` rows of ``size`` logits that lie one behind the other from the address ``rows``
    on: of each, from the address ``maxima`` on, ceil(size / 256) times 16 float32, of which lane t % 16 of vector
    t // 256 is the greatest of its 16 logits t. No row has a NaN. Who changes a row otherwise than with ``apply`` has
    to have it forgotten.
    """

    __slots__ = ("_end", "_maxima", "_maxima_bytes", "_row_bytes", "_rows")

    def __init__(self, rows: int, many: int, size: int, maxima: int) -> None:
        self._rows, self._maxima = rows, maxima
        self._row_bytes, self._maxima_bytes = 4 * size, 64 * -(-size // 256)
        self._end = rows + many * self._row_bytes

    def at(self, row: int, many: int = 1) -> int | None:
        """Where the maxima of ``many`` rows from the one that lies there on are; None where there are none."""
        if not self._rows <= row <= self._end - many * self._row_bytes:
            return None
        number, rest = divmod(row - self._rows, self._row_bytes)
        return None if rest else self._maxima + number * self._maxima_bytes


_NO_MAXIMA = RowMaxima(1, 0, 1, 0)


class _Room:
    """Arrays that answers for rows of one size are written to, and where they lie. Pages that nothing is written to
    take no memory.
    """

    __slots__ = ("_kept", "ids", "ids_at", "maxima_at", "other_at", "weights", "weights_at")

    def __init__(self, size: int, maxima: int) -> None:
        self.ids: Ids = np.empty(size, np.intp)
        self.weights: LogitsRow = np.empty(size, np.float32)
        self._kept = np.empty(size, np.int64), np.empty(maxima, np.float32)
        self.ids_at, self.weights_at = _address(self.ids), _address(self.weights)
        self.other_at, self.maxima_at = map(_address, self._kept)


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.rooms: dict[int, _Room] = {}


class Native:
    """The functions of a library, in the form of those in ``plain`` and ``changes``."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Raises AttributeError where a function isn't in it."""

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(library, f"tailrace_rows_{name}")
            found.restype, found.argtypes = result, arguments
            return found

        row = (_Address, _Address, _Many)  # its logits, its mask, how many
        self._room: Callable[[int], int] = function("room", _Many, _Many)
        self._best: Callable[[int, int | None, int, int | None], int] = function("best", _Many, *row, _Address)
        self._best_of_each: Callable[[int, int, int, int | None, int], int]
        self._best_of_each = function("best_of_each", ctypes.c_int, _Address, _Many, _Many, _Address, _Address)
        self._sums: Callable[[int, int, int], None] = function("sums", None, _Address, _Many, _Address)
        self._place: Callable[[int, int, float], int] = function("place", _Many, _Address, _Many, ctypes.c_double)
        self._apply: Callable[[int, int, int, int | None], int]
        self._apply = function("apply", ctypes.c_int, _Address, _Many, _Address, _Address)
        self._undo: Callable[[int, int, int | None], None] = function("undo", None, _Address, _Address, _Address)
        self._narrow: Callable[[int, int, int, _Range, int], None]
        self._narrow = function("narrow", None, _Address, _Address, _Many, ctypes.POINTER(_Range), _Address)
        self._measure: Callable[[int, int, int], None] = function("measure", None, _Address, _Many, _Address)
        self._extend: Callable[[int, int, int], None] = function("extend", None, _Address, _Address, _Many)
        self._followers: Callable[[int, int, int, int, int, int, int, int, int], int]
        self._followers = function("followers", _Many, _Address, _Address, *[_Many] * 4, *[_Address] * 3)
        # Scans call these.
        self.scanned: Callable[[int, int | None, int, int | None, int], float]
        self.scanned = function("scan", _Float, *row, _Address, _Address)
        self.above: Callable[[int, int | None, int, int, float, int], int]
        self.above = function("above", _Many, *row, _Address, _Float, _Address)
        self.top: Callable[[int, int | None, int, int, float, int, int, int], int]
        self.top = function("top", _Many, *row, _Address, _Float, _Many, _Address, _Address)
        self.filtered: Callable[[int, int | None, int, int, float, _Filters, int, int, int], int]
        self.filtered = function(
            "filtered", _Many, *row, _Address, _Float, ctypes.POINTER(_Filters), _Address, _Address, _Address
        )
        self.total: Callable[[int, int | None, int, float], float]
        self.total = function("total", ctypes.c_double, *row, _Float)
        self.weights: Callable[[int, int | None, int, float, float, int], None]
        self.weights = function("weights", None, *row, _Float, _Float, _Address)
        self.surprise: Callable[[int, int | None, int, float, float, int], None]
        self.surprise = function("surprise", None, *row, _Float, _Float, _Address)
        self.spread: Callable[[int, int | None, int, float, int], None]
        self.spread = function("spread", None, *row, _Float, _Address)
        self._scratch = _Scratch()
        self._row_maxima = _NO_MAXIMA

    def set_row_maxima(self, maxima: RowMaxima | None) -> None:
        """What is kept of rows from now on, in place of what was."""
        self._row_maxima = maxima or _NO_MAXIMA

    def maxima_at(self, row: int) -> int | None:
        """Where the maxima of the row that lies there are kept, if they are."""
        return self._row_maxima.at(row)

    def room(self, size: int) -> _Room:
        """This thread's arrays for rows of ``size``."""
        rooms = self._scratch.rooms
        if size not in rooms:
            rooms.clear()  # Few processes ever see a second size.
            rooms[size] = _Room(size, self._room(size))
        return rooms[size]

    def scan(self, row: LogitsRow, mask: Mask | None = None) -> LogitsView:
        """As ``plain.LogitsView``."""
        return LogitsView(self, row, mask)

    def best(self, row: LogitsRow, mask: Mask | None = None) -> int:
        """As ``plain.best``."""
        at = _address(row)
        return self._best(at, _mask_address(mask, len(row)), len(row), self._row_maxima.at(at))

    def best_of_each(self, rows: LogitsRow) -> list[int] | None:
        """As ``plain.best_of_each``."""
        many, size = rows.shape
        tokens = np.empty(many, np.int64)
        at = _address(rows)
        if not self._best_of_each(at, many, size, self._row_maxima.at(at, many), _address(tokens)):
            return None
        chosen: list[int] = tokens.tolist()
        return chosen

    def sums(self, weights: LogitsRow) -> Numbers:
        """As ``plain.sums``."""
        sums = np.empty(-(-len(weights) // BLOCK))
        self._sums(_address(weights), len(weights), _address(sums))
        return sums

    def place(self, weights: Numbers, number: float) -> int:
        """As ``plain.place``."""
        return self._place(_address(weights), len(weights), number)

    def narrow(self, logits: Numbers, size: int, temperature: float, steps: Steps) -> Narrowed:
        """As ``narrowing.narrow``."""
        found = _Range(0, len(logits), size, temperature)
        weights = np.empty(len(logits))
        at = _address(steps) if len(steps) else 0
        self._narrow(_address(logits), at, len(steps), found, _address(weights))
        return Narrowed(found.begin, found.end, found.size, found.temperature, weights[found.begin : found.end])

    def measure(self, tokens: Tokens, lengths: Lengths) -> None:
        """As ``repeats.measure``."""
        if len(tokens):
            self._measure(_address(tokens), len(tokens), _address(lengths))

    def extend(self, tokens: Tokens, lengths: Lengths, size: int) -> None:
        """As ``repeats.extend``."""
        self._extend(_address(tokens), _address(lengths), size)

    def followers(
        self,
        tokens: Tokens,
        lengths: Lengths,
        begin: int,
        end: int,
        limit: int,
        least: int,
        seen: Tokens,
        found: Tokens,
        longest: Lengths,
    ) -> int:
        """As ``repeats.followers``."""
        arrays = map(_address, (seen, found, longest))
        return self._followers(_address(tokens), _address(lengths), begin, end, limit, least, *arrays)

    def apply(self, row: LogitsRow, changes: Changes) -> None:
        """As ``changes.apply``."""
        record = changes.record
        if not isinstance(record, _Record):
            record = changes.record = _Record(changes)
        record.renew(changes)
        at = _address(row)
        if not self._apply(at, len(row), record.at, self._row_maxima.at(at)):
            raise IndexError(f"a token that is to be changed isn't among {len(row)}")

    def undo(self, row: LogitsRow, changes: Changes) -> None:
        """As ``changes.undo``."""
        record = changes.record
        assert isinstance(record, _Record)
        at = _address(row)
        self._undo(at, record.at, self._row_maxima.at(at))


class LogitsView:
    """As ``plain.LogitsView``."""

    __slots__ = ("_mask", "_mask_at", "_native", "_room", "_row", "_row_at", "best")

    def __init__(self, native: Native, row: LogitsRow, mask: Mask | None) -> None:
        size = len(row)
        self._native, self._row, self._mask = native, row, mask
        self._room = native.room(size)
        self._row_at, self._mask_at = _address(row), _mask_address(mask, size)
        kept = native.maxima_at(self._row_at)
        self.best = native.scanned(self._row_at, self._mask_at, size, kept, self._room.maxima_at)

    def top(self, count: int) -> Ids:
        """As ``plain.LogitsView.top``."""
        room, size = self._room, len(self._row)
        found = self._native.top(
            self._row_at,
            self._mask_at,
            size,
            room.maxima_at,
            self.best,
            min(count, size),
            room.ids_at,
            room.other_at,
        )
        return room.ids[:found].copy()

    def filtered(self, top_k: int, top_p: float, min_p: float, temperature: float) -> tuple[Ids, Numbers]:
        """As ``plain.LogitsView.filtered``."""
        room, size = self._room, len(self._row)
        count = min(top_k, size)
        weights = np.empty(count)
        kept = self._native.filtered(
            self._row_at,
            self._mask_at,
            size,
            room.maxima_at,
            self.best,
            _Filters(count, top_p, math.log(min_p) if min_p > 0.0 else -math.inf, temperature),
            room.ids_at,
            room.other_at,
            _address(weights),
        )
        return room.ids[:kept].copy(), weights[:kept]

    def above(self, bound: float) -> Ids:
        """As ``plain.LogitsView.above``."""
        room = self._room
        found = self._native.above(
            self._row_at, self._mask_at, len(self._row), room.maxima_at, max(bound, _LOWEST), room.ids_at
        )
        return room.ids[:found].copy()

    def weights(self, temperature: float = 1.0) -> tuple[Ids | None, LogitsRow]:
        """As ``plain.LogitsView.weights``."""
        room = self._room
        self._native.weights(
            self._row_at,
            self._mask_at,
            len(self._row),
            self.best,
            min(1.0 / temperature, COLDEST),
            room.weights_at,
        )
        return None, room.weights

    def total(self) -> float:
        """As ``plain.LogitsView.total``."""
        return self._native.total(self._row_at, self._mask_at, len(self._row), self.best)

    def entropy(self, temperature: float = 1.0) -> tuple[float, float]:
        """As ``plain.LogitsView.entropy``."""
        sums = (ctypes.c_double * 2)()
        factor = min(1.0 / temperature, COLDEST)
        self._native.surprise(self._row_at, self._mask_at, len(self._row), self.best, factor, ctypes.addressof(sums))
        return sums[0], math.log(sums[0]) - sums[1] / sums[0]

    def spread(self) -> tuple[float, float]:
        """As ``plain.LogitsView.spread``."""
        both = (ctypes.c_double * 2)()
        self._native.spread(self._row_at, self._mask_at, len(self._row), self.best, ctypes.addressof(both))
        return both[0], both[1]


class _Range(ctypes.Structure):
    """``struct range`` of narrowing.c."""

    _fields_ = [("begin", _Many), ("end", _Many), ("size", _Many), ("temperature", ctypes.c_double)]


class _Filters(ctypes.Structure):
    """``struct filters`` of draw.c."""

    _fields_ = [
        ("count", _Many),
        ("top_p", ctypes.c_double),
        ("distance", ctypes.c_double),
        ("temperature", ctypes.c_double),
    ]


class _Record(ctypes.Structure):
    """``struct changes`` of changes.c."""

    _fields_ = [
        ("biased", _Address),
        ("recent", _Address),
        ("reply", _Address),
        ("bias", _Address),
        ("counts", _Address),
        ("before", _Address),
        ("lanes", _Address),
        ("biases", _Many),
        ("recents", _Many),
        ("replies", _Many),
        ("repeat", _Float),
        ("frequency", _Float),
        ("presence", _Float),
    ]

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self.at = ctypes.addressof(self)
        self.repeat, self.frequency, self.presence = changes.repeat, changes.frequency, changes.presence
        self._replaced: LogitsRow = np.empty(0, np.float32)
        self._seen: tuple[Ids, Ids] | None = None

    def renew(self, changes: Changes) -> None:
        """Take over the arrays where they are others than before."""
        biased, recent, reply = changes.biased, changes.recent, changes.reply
        if self._seen is not None and self._seen[0] is recent and self._seen[1] is reply:
            return
        self._seen = recent, reply
        self.biases, self.recents, self.replies = many = len(biased), len(recent), len(reply)
        if many[0]:
            self.biased, self.bias = _address(biased), _address(changes.bias)
        if many[1]:
            self.recent = _address(recent)
        if many[2]:
            self.reply, self.counts = _address(reply), _address(changes.counts)
        if 2 * sum(many) > len(self._replaced):
            # The logits, and behind them the lanes.
            self._replaced = np.empty(4 * sum(many), np.float32)
            self.before = _address(self._replaced)
            self.lanes = self.before + 2 * self._replaced.itemsize * sum(many)


def _mask_address(mask: Mask | None, size: int) -> int | None:
    if mask is None:
        return None
    if 32 * len(mask) < size:
        raise ValueError(f"a mask of {len(mask)} words for {size} tokens")
    return _address(mask) if mask.flags.writeable else mask.ctypes.data
