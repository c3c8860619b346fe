"""Quality and speed of a converted model compared with its original, and the rules by which a format is chosen. Pure.

``engine.weights`` measures; this module only judges the figures.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

#: Mean divergence, in nats, up to which a conversion counts as near-lossless. Other kernels for the same weights make
#: 0.004 by themselves (starter model).
NEAR_LOSSLESS = 0.01
#: The least mean speed ratio for which a second file is worth its space. The noise of one measurement is half of it.
MIN_MEAN_RATIO = 1.05
#: The least speed ratio at any single load: a conversion may lose a tenth at one load to win at the others.
MIN_RATIO = 0.9
#: Formats with this part of the best format's gain count as equally fast.
EQUALLY_FAST = 0.95


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How a model's next-token distributions differ from the original's over a fixed text.

    ``engine.weights.quality`` has the formulas.
    """

    tokens: int  #: positions that were compared
    divergence: float  #: mean Kullback-Leibler divergence, in nats
    divergence_p99: float  #: its 99th percentile
    same_top: float  #: part of the positions with the same likeliest token, 0 to 1
    perplexity_before: float
    perplexity: float


class Speed(msgspec.Struct, frozen=True, kw_only=True, rename={"decode_batched": "decode_many"}):
    """Tokens per second of one model on this machine. ``decode_many`` is the key in records of older versions."""

    prefill: float
    decode: float  #: one sequence
    decode_batched: float  #: ``streams`` concurrent sequences, all together
    streams: int

    def ratios_to(self, other: Speed) -> tuple[float, float, float]:
        """This speed divided by the other's: prefill, one sequence, several sequences."""
        return self.prefill / other.prefill, self.decode / other.decode, self.decode_batched / other.decode_batched

    def mean_ratio_to(self, other: Speed) -> float:
        """The geometric mean of ``ratios_to``: it is symmetric, so twice as fast at one load and half as fast at
        another is no gain.
        """
        prefill, decode, batched = self.ratios_to(other)
        return float((prefill * decode * batched) ** (1 / 3))


class FormatComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A converted model compared with its original."""

    quality: Quality
    before: Speed
    after: Speed

    def rejection_reason(self, aim: str) -> str | None:
        """Why the conversion isn't used for ``aim`` (near-lossless or fast), in words; None when it is used."""
        if aim == "near-lossless" and self.quality.divergence > NEAR_LOSSLESS:
            return f"its divergence, {self.quality.divergence:.4f} nats, is over {NEAR_LOSSLESS}"
        loads = ("reading", "one stream", f"{self.after.streams} streams")
        ratio, load = min(zip(self.after.ratios_to(self.before), loads, strict=True))
        if ratio < MIN_RATIO:
            return f"at {load} it has {ratio:.2f} of the file's own speed"
        if (mean := self.after.mean_ratio_to(self.before)) < MIN_MEAN_RATIO:
            return f"it is no faster here ({mean:.2f} of the file's own speed)"
        return None


def best_format(aim: str, measured: Mapping[str, FormatComparison]) -> str | None:
    """The name of the measured format to use for ``aim``; None when the original file is better than all of them.

    Of the formats that count as equally fast as the fastest, the one with the least divergence is chosen.
    """
    accepted = {name: each for name, each in measured.items() if each.rejection_reason(aim) is None}
    if not accepted:
        return None
    best = max(each.after.mean_ratio_to(each.before) for each in accepted.values())
    fast = {
        name: each for name, each in accepted.items() if each.after.mean_ratio_to(each.before) >= EQUALLY_FAST * best
    }
    return min(fast, key=lambda name: fast[name].quality.divergence)
