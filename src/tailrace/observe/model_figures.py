"""What is counted of a served model's loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LoadFigures:
    """Totals since the HTTP process's start, and the memory as of now."""

    loads: int = 0
    load_seconds: float = 0.0  #: from each order to the first engine's connection
    unloads: int = 0
    failures: int = 0
    bytes: int = 0  #: memory of the model's engines, as measured; 0: none, or not known yet

    def loaded(self, seconds: float) -> None:
        """It has been loaded, which has taken so long since the order."""
        self.loads += 1
        self.load_seconds += seconds
