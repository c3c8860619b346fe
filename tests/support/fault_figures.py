"""Figures that tests of faults measure, each beside the bound that the server promises."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

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


class FigureTable:
    """All figures of a run."""

    def __init__(self) -> None:
        self._figures: list[Figure] = []

    @contextlib.contextmanager
    def of(self, fault: str) -> Iterator[Record]:
        """Records the figures of one test; all of them are recorded before one that is over its bound fails it."""
        own: list[Figure] = []

        def add(what: str, value: float, bound: float, unit: str) -> None:
            own.append(Figure(fault, what, value, bound, unit))

        yield add
        self._figures.extend(own)
        over = ["  ".join(figure.row) for figure in own if figure.value > figure.bound]
        assert not over, "over the bound:\n" + "\n".join(over)

    def fixture(self) -> object:
        """The fixture ``record``, for a conftest."""

        @pytest.fixture(name="record")
        def record(request: pytest.FixtureRequest) -> Iterator[Record]:
            with self.of(request.node.name) as add:
                yield add

        return record

    def print(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table: a conftest's ``pytest_terminal_summary``."""
        if not self._figures:
            return
        terminalreporter.section("figures")
        rows = [figure.row for figure in self._figures]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
