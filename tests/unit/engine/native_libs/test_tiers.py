"""The instruction tiers name a CPU's flags as Linux writes them into /proc/cpuinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from recorded_machines import expand
from tailrace.engine.native_libs import UnsupportedCpu, tiers
from tailrace.engine.native_libs.tiers import TIERS, TierName
from tailrace.machine.isa import read_cpu_flags


@pytest.fixture
def sapphire_rapids(tmp_path: Path) -> frozenset[str]:
    """All flags of a Xeon of the first generation with AMX."""
    return read_cpu_flags(expand("gpu-server", tmp_path))


@pytest.mark.parametrize("tier", [tier for tier in TIERS if tier != "neon"])
def test_a_cpu_with_amx_has_every_tier(
    monkeypatch: pytest.MonkeyPatch, sapphire_rapids: frozenset[str], tier: TierName
) -> None:
    """A flag that Linux spells in another way would leave the tier unused on all machines."""
    assert "amx_tile" in sapphire_rapids
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: sapphire_rapids)
    TIERS[tier].require()
    assert TIERS[tier].supported


@pytest.mark.parametrize("flag", ["amx_tile", "amx_int8", "amx_bf16", "avx512_bf16", "avx512vbmi"])
def test_each_flag_that_amx_code_needs_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, sapphire_rapids: frozenset[str], flag: str
) -> None:
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: sapphire_rapids - {flag})
    with pytest.raises(UnsupportedCpu, match=f"this CPU lacks {flag}$"):
        TIERS["amx"].require()
    assert not TIERS["amx"].supported
    assert TIERS["avx512-vnni"].supported


def test_arm_with_dotprod_has_the_tier_for_neon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flags = read_cpu_flags(expand("arm-big-little", tmp_path))
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: flags)
    assert [name for name, tier in TIERS.items() if tier.supported] == ["neon", "any"]
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: flags - {"asimddp"})
    with pytest.raises(UnsupportedCpu, match=r"this CPU lacks asimddp$"):
        TIERS["neon"].require()
