"""Figures that tests of faults measure, each beside the bound that the server promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Records a figure: what it is, its value, its bound and its unit.
Record = Callable[[str, float, float, str], None]


@dataclass(frozen=True)
class Figure:
    """One measured value and its bound."""

    fault: str
    what: str
    value: float
    bound: float
    unit: str

    @property
    def row(self) -> tuple[str, str, str, str]:
        """The figure's line in the table at the end of a run."""
        return self.fault, self.what, f"{self.value:.2f} {self.unit}", f"≤ {self.bound:g} {self.unit}"
