"""What a benchmark finds: figures held against bounds, and curves to draw. Also its JSON, which the report reads.

Knows no server and draws nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its range over the turns, and the bound that it is held against, if it is."""

    what: str
    median: float
    low: float
    high: float
    turns: int
    unit: str = "×"
    bound: float | None = None
    at_most: bool = False  #: the bound is an upper one
    between: tuple[float, float] | None = None  #: see ``interval``

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the bound; None without one."""
        return None if self.bound is None else self._keeps(self.median, self.bound)

    @property
    def verdict(self) -> str:
        """``met`` or ``missed``; ``undecided`` where the interval's ends differ in that; empty without a bound."""
        if self.bound is None:
            return ""
        if self.between is not None and len({self._keeps(end, self.bound) for end in self.between}) == 2:
            return "undecided"
        return "met" if self.met else "missed"

    def _keeps(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound


def interval(values: Sequence[float], sure: float = 0.95) -> tuple[float, float] | None:
    """Two of the values, between which the median of endlessly many lies with a chance of ``sure`` at least, however
    they are distributed (the sign test's interval). None for too few: fewer than 6 for 0.95.
    """
    count = len(values)
    ordered = sorted(values)
    found = None
    outside = 0.0
    for index in range(count // 2):
        # The chance that exactly so many of them lie on the median's one side, and on its other.
        outside += 2 * math.comb(count, index) / 2**count
        if outside > 1 - sure:
            break
        found = ordered[index], ordered[-1 - index]
    return found


def figure(
    what: str, values: Sequence[float], *, unit: str = "×", bound: float | None = None, at_most: bool = False
) -> Figure:
    """The median of ``values``, their range and the median's interval. Raises ValueError without any."""
    if not values:
        raise ValueError(f"{what}: nothing was measured")
    return Figure(
        what=what,
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        turns=len(values),
        unit=unit,
        bound=bound,
        at_most=at_most,
        between=interval(values),
    )


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """One line, or one set of bars: a value for each ``x``, with its range where several turns were made."""

    label: str
    x: Sequence[float | str]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A picture: its curves share the axes. ``bound`` is drawn as a level line."""

    title: str
    x: str
    y: str
    curves: list[Curve]
    kind: Literal["lines", "bars", "dots"] = "lines"
    bound: float | None = None
    logarithmic: bool = False  #: the y axis


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one part found."""

    part: str
    question: str
    command: str
    figures: list[Figure] = []
    plots: list[Plot] = []
    notes: list[str] = []  #: what was measured how: flags, sizes, what was left out and why
    machine: dict[str, str] = {}
    seconds: float = 0.0


def save(result: Result, folder: Path) -> Path:
    """Write ``folder/PART.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.part}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    return path


def load(folder: Path, order: Sequence[str]) -> list[Result]:
    """The results in ``folder``, in this order of parts; those of other parts are left out."""
    paths = [folder / f"{part}.json" for part in order]
    return [msgspec.json.decode(path.read_bytes(), type=Result) for path in paths if path.exists()]
