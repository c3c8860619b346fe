"""C libraries that are compiled on the user's machine, one for each instruction tier, and cached in the user's folder.

``tiers`` names the tiers and their compiler flags, ``compiler`` runs the C compiler, ``library`` builds a library once,
proves it and caches it, ``ggml_headers`` finds the headers of the installed llama.cpp. Both ``kernels`` and
``sampling.logits_ops`` build their C code here; nothing here knows what that code computes.
"""

from __future__ import annotations

from tailrace.errors import TailraceError


class NativeUnavailable(TailraceError):
    """There is no native library here. The message gives the reason and, where there is one, the remedy."""


class UnsupportedCpu(NativeUnavailable):
    """The CPU lacks the instructions of every tier, so nothing on this machine can be done about it."""
