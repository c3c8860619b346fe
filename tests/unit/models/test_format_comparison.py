"""The rules by which a converted model replaces the original."""

from __future__ import annotations

import msgspec
import pytest

from tailrace.models.format_comparison import NEAR_LOSSLESS, FormatComparison, Quality, Speed, best_format

BEFORE = Speed(prefill=500, decode=200, decode_batched=320, streams=8)


def comparison(
    *, divergence: float = 0.001, prefill: float = 2.0, decode: float = 1.0, batched: float = 1.0
) -> FormatComparison:
    after = Speed(prefill=500 * prefill, decode=200 * decode, decode_batched=320 * batched, streams=8)
    quality = Quality(
        tokens=2000, divergence=divergence, divergence_p99=1.0, same_top=0.9, perplexity_before=20, perplexity=21
    )
    return FormatComparison(quality=quality, before=BEFORE, after=after)


def test_the_mean_ratio_is_symmetric() -> None:
    after = Speed(prefill=1000, decode=100, decode_batched=320, streams=8)
    assert after.ratios_to(BEFORE) == (2.0, 0.5, 1.0)
    assert after.mean_ratio_to(BEFORE) == pytest.approx(1.0)
    assert after.mean_ratio_to(BEFORE) * BEFORE.mean_ratio_to(after) == pytest.approx(1.0)


@pytest.mark.parametrize("aim", ["near-lossless", "fast"])
def test_faster_and_close_is_used_for_both_aims(aim: str) -> None:
    assert comparison().rejection_reason(aim) is None


def test_only_near_lossless_limits_the_loss() -> None:
    lossy = comparison(divergence=NEAR_LOSSLESS * 1.01)
    assert lossy.rejection_reason("fast") is None
    assert "divergence, 0.0101 nats, is over 0.01" in (lossy.rejection_reason("near-lossless") or "")


def test_a_format_that_is_not_faster_is_rejected() -> None:
    assert "it is no faster here (1.03" in (comparison(prefill=1.1).rejection_reason("fast") or "")


def test_a_gain_at_one_load_does_not_pay_for_a_loss_at_another() -> None:
    assert (
        comparison(prefill=3.0, decode=0.7).rejection_reason("fast")
        == "at one stream it has 0.70 of the file's own speed"
    )
    assert "at 8 streams it has 0.80" in (comparison(prefill=3.0, batched=0.8).rejection_reason("near-lossless") or "")


def test_a_comparison_is_the_same_after_decoding() -> None:
    there = comparison()
    assert msgspec.json.decode(msgspec.json.encode(there), type=FormatComparison) == there


def test_the_fastest_format_is_chosen_and_of_equally_fast_ones_the_most_exact() -> None:
    far, close = comparison(divergence=0.3, prefill=3.4), comparison(divergence=0.1, prefill=3.2)
    slow, exact = comparison(divergence=0.02, prefill=2.0), comparison(divergence=0.005, prefill=1.5)
    measured = {"far": far, "close": close, "slow": slow, "exact": exact}
    assert best_format("fast", measured) == "close"
    assert best_format("fast", {"far": far, "slow": slow}) == "far"
    assert best_format("near-lossless", measured) == "exact"


def test_no_format_is_chosen_where_none_is_faster() -> None:
    assert best_format("fast", {"slow": comparison(prefill=1.0)}) is None
    assert best_format("near-lossless", {}) is None
