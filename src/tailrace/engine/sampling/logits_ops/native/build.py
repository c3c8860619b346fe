"""Builds the library of passes over logits rows for one of this CPU's instruction tiers."""

from __future__ import annotations

import ctypes
from pathlib import Path

import structlog

from tailrace.engine.native_libs import NativeUnavailable, UnsupportedCpu
from tailrace.engine.native_libs.library import Source, ensure_built
from tailrace.engine.native_libs.tiers import TIERS, TierName

SOURCES = Path(__file__).parent
#: The tiers that the passes are written for, the fastest first.
LOGITS_TIERS: tuple[TierName, ...] = ("avx512", "avx2")
#: The tiers that each value of the setting ``kernels`` allows, the fastest first; none for ``off``.
TIERS_OF_CHOICE: dict[str, tuple[TierName, ...]] = {"on": LOGITS_TIERS, "avx512": ("avx512",), "avx2": ("avx2",)}


def build_fastest(choice: str) -> Path:
    """The proved library of the fastest tier that ``choice`` allows and that can be built. Raises NativeUnavailable,
    and UnsupportedCpu where this CPU has none of the tiers.
    """
    allowed = TIERS_OF_CHOICE.get(choice)
    if not allowed:
        raise UnsupportedCpu(f"kernels is {choice}, and the passes over logits have no code for it")
    TIERS[allowed[-1]].require()
    *faster, last = [tier for tier in allowed if TIERS[tier].supported]
    for tier in faster:
        try:
            return build_logits_ops(tier)
        except NativeUnavailable as error:
            structlog.get_logger().warning("a slower tier chooses tokens", tier=tier, reason=str(error))
    return build_logits_ops(last)


def build_logits_ops(tier: TierName, cache: Path | None = None, *, again: bool = False) -> Path:
    """The proved library of ``tier``, see ``ensure_built``. Raises NativeUnavailable."""
    return ensure_built(source(), TIERS[tier], cache, again=again)


def source() -> Source:
    """The C code of the passes."""
    return Source("logits-ops", SOURCES, prove_logits_ops)


def prove_logits_ops(library: ctypes.CDLL) -> list[str]:
    """The passes that ``library`` computes wrongly, by name; none where all are right."""
    # Here, because the proof isn't needed where the library is built already.
    from tailrace.engine.sampling.logits_ops.native.proof import wrong_results

    return wrong_results(library)
