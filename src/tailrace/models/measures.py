"""What is measured of a model's weights, and what of it makes one format better than another. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

#: Mean divergence, in nats, up to which a conversion counts as near-lossless. Of the starter model (Q4_1) other kernels
#: for the same weights make 0.004 alone; Q8_0 makes 0.007, Q6_K 0.015 and Q4_K_M 0.07.
NEAR_LOSSLESS = 0.01
#: What a conversion has to be faster by to be worth another file: the noise of one measurement is about half of it.
WORTH = 1.05
#: The part of its speed at any one load that a conversion may lose for the sake of the others.
BEARABLE = 0.9
#: The part of the fastest one's gain at which a format counts as about as fast.
ABOUT = 0.95


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How a model's next-token distributions differ from the original's over a fixed text. See ``engine.quality``."""

    tokens: int  #: positions that were compared
    divergence: float  #: mean Kullback-Leibler divergence, in nats
    divergence_p99: float  #: its 99th percentile
    same_top: float  #: part of the positions with the same likeliest token
    perplexity_before: float
    perplexity: float


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens a second of one model on this machine."""

    prefill: float
    decode: float  #: one stream
    decode_many: float  #: ``streams`` streams together
    streams: int

    def over(self, other: Speed) -> tuple[float, float, float]:
        """This speed as a multiple of the other: reading, one stream, several streams."""
        return self.prefill / other.prefill, self.decode / other.decode, self.decode_many / other.decode_many

    def gain(self, other: Speed) -> float:
        """One figure for ``over``: the geometric mean, which is symmetric (twice as fast at one load and half at
        another is no gain).
        """
        prefill, decode, many = self.over(other)
        return float((prefill * decode * many) ** (1 / 3))


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """A conversion against its original."""

    quality: Quality
    before: Speed
    after: Speed

    def objection(self, aim: str) -> str | None:
        """Why the conversion isn't used for ``aim`` (near-lossless or fast), in words; None when it is."""
        if aim == "near-lossless" and self.quality.divergence > NEAR_LOSSLESS:
            return f"its divergence, {self.quality.divergence:.4f} nats, is over {NEAR_LOSSLESS}"
        loads = ("reading", "one stream", f"{self.after.streams} streams")
        ratio, load = min(zip(self.after.over(self.before), loads, strict=True))
        if ratio < BEARABLE:
            return f"at {load} it has {ratio:.2f} of the file's own speed"
        if (gain := self.after.gain(self.before)) < WORTH:
            return f"it is no faster here ({gain:.2f} of the file's own speed)"
        return None


def preferred(aim: str, measured: Mapping[str, Measures]) -> str | None:
    """The format to use for ``aim`` of those measured, by name; None when the file as it is is better than all.

    The fastest, or of those about as fast the one that loses least.
    """
    good = {name: each for name, each in measured.items() if each.objection(aim) is None}
    if not good:
        return None
    best = max(each.after.gain(each.before) for each in good.values())
    level = {name: each for name, each in good.items() if each.after.gain(each.before) >= ABOUT * best}
    return min(level, key=lambda name: level[name].quality.divergence)
