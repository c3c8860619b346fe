"""The implementations of ``logits_ops``, for tests that must hold with each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tailrace.engine.native_libs.tiers import TIERS
from tailrace.engine.sampling import logits_ops

#: The params of a fixture.
IMPLEMENTATIONS = [
    "NumPy",
    pytest.param("C", marks=pytest.mark.skipif(not TIERS["avx2"].supported, reason="this CPU can't run it")),
]


@contextmanager
def use_implementation(name: str) -> Iterator[None]:
    """Use this implementation, C for rows of any length. Afterwards NumPy is used, as in all other tests."""
    choice = "on" if name == "C" else "off"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logits_ops, "_MIN_NATIVE_SIZE", 1)
        logits_ops.enable_native(choice)
        assert logits_ops.status() == choice
        yield
    logits_ops.enable_native("off")
