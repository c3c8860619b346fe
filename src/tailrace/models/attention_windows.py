"""Which layers of a model attend to a sliding window, from the header of its file.

A file names the window, and perhaps the layers that have it. Otherwise llama.cpp knows the pattern of the architecture
(``load_swa_pattern`` in its ``models/``), which is here, too.
"""

from __future__ import annotations

from typing import NamedTuple

from tailrace.models.model_header import ModelHeader


class _Pattern(NamedTuple):
    """One layer of each ``period`` has no window: the last one, or the first one."""

    period: int
    dense_first: bool = False
    window: int = 0  #: where the file names none
    is_fixed: bool = False  #: llama.cpp takes ``window`` whatever the file says


_PATTERNS: dict[str, _Pattern] = {
    "afmoe": _Pattern(4),
    "cohere2": _Pattern(4),
    "cohere2moe": _Pattern(4, dense_first=True),
    "exaone-moe": _Pattern(4, window=128),
    "gemma2": _Pattern(2, window=4096),
    "gemma3": _Pattern(6),
    "gemma3n": _Pattern(5),
    "gpt-oss": _Pattern(2),
    "laguna": _Pattern(4, dense_first=True),
    "llama4": _Pattern(4, window=8192, is_fixed=True),
    "mellum": _Pattern(4),
    "muse-glimmer": _Pattern(4),
    "olmo2": _Pattern(4),
    "plamo3": _Pattern(8),
    "smallthinker": _Pattern(4, dense_first=True, window=4096, is_fixed=True),
}
#: llama.cpp ignores the window that these files name.
_WITHOUT = frozenset({"phi3"})


def attention_windows(header: ModelHeader, layers: int) -> tuple[int, ...]:
    """The window of each of the model's ``layers``, in tokens; 0: it attends to all tokens, or nothing is known."""
    architecture = header.facts.architecture
    key = f"{architecture}.attention.sliding_window"
    pattern = _PATTERNS.get(architecture)
    named = header.values.get(key)
    window = named if isinstance(named, int) else None
    if pattern is not None and window != 0:
        window = pattern.window if pattern.is_fixed or window is None else window
    if not window or window < 0 or architecture in _WITHOUT:
        return (0,) * layers
    listed = header.layer_values.get(f"{key}_pattern")
    if listed is not None:
        return tuple(window if each else 0 for each in [*listed, *[0] * layers][:layers])
    if pattern is None:
        return (0,) * layers
    period = header.values.get(f"{key}_pattern")
    period = period if isinstance(period, int) and not isinstance(period, bool) and period >= 0 else pattern.period
    return tuple(window if _has_window(layer, period, pattern.dense_first) else 0 for layer in range(layers))


def _has_window(layer: int, period: int, dense_first: bool) -> bool:
    if period == 0:
        return True
    return layer % period != (0 if dense_first else period - 1)
