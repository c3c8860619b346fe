"""The kernel tiers that this CPU has: tests of the kernels run once for each of them."""

from __future__ import annotations

from tailrace.engine.kernels.build import cpu_tiers
from tailrace.engine.native_libs.tiers import TierName

#: The fastest first; empty on a CPU without any.
TIERS = cpu_tiers()
#: Parameters of a fixture; None stands for no tier, and its tests are skipped.
PARAMS: list[TierName | None] = [*TIERS] or [None]
#: The values of the setting ``kernels`` that differ on this CPU.
CHOICES = ["on", *(["avx512"] if "amx" in TIERS else []), "off"]
