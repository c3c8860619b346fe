"""The instruction tiers that this CPU can run. Tests of kernels are parametrised with them."""

from __future__ import annotations

from tailrace.engine.kernels.build import cpu_tiers
from tailrace.engine.native_libs.tiers import TierName

#: The kernels' tiers, the fastest first; none on a CPU that can't run any.
TIERS = cpu_tiers()
#: A fixture's params: one that skips its tests where there are none.
PARAMS: list[TierName | None] = [*TIERS] or [None]
#: Values of the setting ``kernels`` that compute in different ways here.
CHOICES = ["on", *(["avx512"] if "amx" in TIERS else []), "off"]
