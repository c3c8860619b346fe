"""Which tiers the setting ``kernels`` chooses on each architecture."""

from __future__ import annotations

import platform

import pytest

from tailrace.engine.kernels import build, kernel_report, loader
from tailrace.engine.native_libs import UnsupportedCpu, tiers


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU of 64-bit ARM with DOTPROD."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    for module in (build, loader, kernel_report):
        monkeypatch.setattr(module, "KERNEL_TIERS", ("neon",))
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: tiers.TIERS["neon"].cpu_flags)


@pytest.mark.usefixtures("arm")
def test_arm_has_kernels_only_where_they_are_asked_for() -> None:
    """Their speed isn't known, so ``on`` leaves everything to llama.cpp."""
    assert loader.tiers_of("neon") == ["neon"]
    for choice in ("on", "avx512", "avx2"):
        with pytest.raises(UnsupportedCpu, match=f"kernels is {choice}, which has no code for aarch64"):
            loader.tiers_of(choice)


@pytest.mark.usefixtures("arm")
def test_the_report_on_arm_has_the_tier_and_says_why_it_is_not_used() -> None:
    (report,) = kernel_report.report_kernels("on").libraries
    assert (report.tier, report.state, report.reason) == ("neon", "not used", "the setting kernels is on")


def test_x86_has_no_code_for_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "KERNEL_TIERS", ("amx", "avx512-vnni", "avx2-vnni", "avx2"))
    with pytest.raises(UnsupportedCpu, match="kernels is neon, which has no code for "):
        loader.tiers_of("neon")
