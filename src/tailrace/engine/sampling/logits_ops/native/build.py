"""Builds the library of passes over logits rows."""

from __future__ import annotations

import ctypes
from pathlib import Path

from tailrace.engine.native_libs.library import Source, ensure_built
from tailrace.engine.native_libs.tiers import TIERS

SOURCES = Path(__file__).parent


def build_logits_ops(cache: Path | None = None) -> Path:
    """The proved library, see ``ensure_built``. Raises NativeUnavailable."""
    return ensure_built(Source("logits-ops", SOURCES, prove_logits_ops), TIERS["avx512"], cache)


def prove_logits_ops(library: ctypes.CDLL) -> list[str]:
    """The passes that ``library`` computes wrongly, by name; none where all are right."""
    # Here, because the proof isn't needed where the library is built already.
    from tailrace.engine.sampling.logits_ops.native.proof import wrong_results

    return wrong_results(library)
