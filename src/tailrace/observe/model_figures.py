"""What is counted of a served model's loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LoadFigures:
    """Totals since the HTTP process's start, and the memory as of now."""

    loads: int = 0
    load_seconds: float = 0.0  #: from each order to the first engine's connection; 0 for one that had none
    unloads: int = 0
    failures: int = 0
    bytes: int = 0  #: memory of the model's engines, as measured; 0: none, or not known yet
    #: The number of its first engine on the page of lives (``lives_page``): of the only model 1; -1: it has none.
    first_child: int = 1

    def loaded(self, seconds: float) -> None:
        """It has been loaded, which has taken so long since the order."""
        self.loads += 1
        self.load_seconds += seconds
