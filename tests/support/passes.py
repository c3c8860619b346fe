"""Passes over rows of logits in either language, for tests that have to hold in both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tailrace.engine.native_libs.tiers import TIERS
from tailrace.engine.sampling import logits_ops

#: A fixture's params.
LANGUAGES = [
    "NumPy",
    pytest.param("C", marks=pytest.mark.skipif(not TIERS["avx512"].supported, reason="this CPU can't run it")),
]


@contextmanager
def passes_in(language: str) -> Iterator[None]:
    """The passes are in ``language``, in C for rows of any length; afterwards in NumPy, as in all other tests."""
    choice = "on" if language == "C" else "off"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logits_ops, "_MIN_NATIVE_SIZE", 1)
        logits_ops.enable_native(choice)
        assert logits_ops.status() == choice
        yield
    logits_ops.enable_native("off")
