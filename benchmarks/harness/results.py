"""The result of a benchmark: figures with their bounds, and curves. Also its JSON file, which the report reads.

It starts no server and draws no plot.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its range over the turns, and its bound, if there is one."""

    label: str
    median: float
    low: float
    high: float
    turns: int
    unit: str = "×"
    bound: float | None = None
    is_upper_bound: bool = False
    interval: tuple[float, float] | None = None  #: see ``median_interval``

    @property
    def met(self) -> bool | None:
        """Whether the median meets the bound; None without a bound."""
        return None if self.bound is None else self._meets(self.median, self.bound)

    @property
    def verdict(self) -> str:
        """``met`` or ``missed``; ``undecided`` where the bound is within the interval; empty without a bound."""
        if self.bound is None:
            return ""
        if self.interval is not None and len({self._meets(end, self.bound) for end in self.interval}) == 2:
            return "undecided"
        return "met" if self.met else "missed"

    def _meets(self, value: float, bound: float) -> bool:
        return value <= bound if self.is_upper_bound else value >= bound


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The sign test's interval: two of the values, between which the true median lies with at least ``confidence``.

    It assumes nothing of the distribution. None for too few values: fewer than 6 for 0.95.
    """
    count = len(values)
    ordered = sorted(values)
    found = None
    outside = 0.0
    for index in range(count // 2):
        # The chance that exactly that many values lie on one side of the median, for both sides.
        outside += 2 * math.comb(count, index) / 2**count
        if outside > 1 - confidence:
            break
        found = ordered[index], ordered[-1 - index]
    return found


def figure(
    label: str, values: Sequence[float], *, unit: str = "×", bound: float | None = None, is_upper_bound: bool = False
) -> Figure:
    """The median of ``values``, their range and the median's interval. Raises ValueError without any."""
    if not values:
        raise ValueError(f"{label}: nothing was measured")
    return Figure(
        label=label,
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        turns=len(values),
        unit=unit,
        bound=bound,
        is_upper_bound=is_upper_bound,
        interval=median_interval(values),
    )


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """One line, or one set of bars: a value for each ``x``, with its range over several turns."""

    label: str
    x: Sequence[float | str]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A plot: its curves share the axes. ``bound`` is drawn as a horizontal line."""

    title: str
    x: str
    y: str
    curves: list[Curve]
    kind: Literal["lines", "bars", "dots"] = "lines"
    bound: float | None = None
    logarithmic: bool = False  #: the y axis


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one benchmark."""

    benchmark: str
    question: str
    command: str
    figures: list[Figure] = []
    plots: list[Plot] = []
    notes: list[str] = []  #: flags, sizes, and the sides that were left out with the reason
    machine: dict[str, str] = {}
    seconds: float = 0.0


def save(result: Result, folder: Path) -> Path:
    """Write ``folder/BENCHMARK.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.benchmark}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    return path


def load(folder: Path, order: Sequence[str]) -> list[Result]:
    """The results in ``folder`` of these benchmarks, in this order."""
    paths = [folder / f"{name}.json" for name in order]
    return [msgspec.json.decode(path.read_bytes(), type=Result) for path in paths if path.exists()]
