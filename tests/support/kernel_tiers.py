"""The kernel tiers that this CPU has: tests of the kernels run once for each of them."""

from __future__ import annotations

from tailrace.engine.kernels.build import TIERS_OF_CHOICE, cpu_tiers
from tailrace.engine.native_libs.tiers import TierName

#: The fastest first; empty on a CPU without any.
TIERS = cpu_tiers()
#: Parameters of a fixture; None stands for no tier, and its tests are skipped.
PARAMS: list[TierName | None] = [*TIERS] or [None]


def _first(choice: str) -> TierName | None:
    """The tier that a value of the setting uses here."""
    return next((tier for tier in TIERS if tier in TIERS_OF_CHOICE[choice]), None)


#: The values of the setting ``kernels`` that differ on this CPU.
CHOICES = ["on", *(choice for choice in ("avx512", "avx2") if _first(choice) not in (None, _first("on"))), "off"]
