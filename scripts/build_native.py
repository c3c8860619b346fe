"""Compiles and proves tailrace's own C code for this CPU, with the Python of ``.venv``: ``setup.py`` runs it.

Prints a line for each library, and one with the reason for each that can't be made. Exit status 1: the CPU could run
one that couldn't be made.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from tailrace.engine.kernels.build import KERNEL_TIERS, build_kernels, cpu_tiers
from tailrace.engine.native_libs import NativeUnavailable, UnsupportedCpu
from tailrace.engine.native_libs.ggml_layout import build_ggml_layout
from tailrace.engine.native_libs.tiers import TIERS
from tailrace.engine.sampling.logits_ops.native.build import LOGITS_TIERS, build_logits_ops


def main() -> int:
    """Build all; the exit status."""
    # Set-up says itself that it compiles.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    failed = False
    builds: list[tuple[str, Callable[[], Path]]] = [
        ("layout of ggml's structs", build_ggml_layout),
        *((f"kernels for {tier}", partial(build_kernels, tier)) for tier in cpu_tiers()),
        *(
            (f"logits operations for {tier}", partial(build_logits_ops, tier))
            for tier in LOGITS_TIERS
            if TIERS[tier].supported
        ),
    ]
    try:
        TIERS[KERNEL_TIERS[-1]].require()
    except UnsupportedCpu as error:
        print(f"no kernels of tailrace's own: {error}")
    for name, build in builds:
        try:
            print(f"{name}: {build()}")
        except UnsupportedCpu as error:
            print(f"{name}: none, {error}")
        except NativeUnavailable as error:
            failed = True
            print(f"{name}: FAILED: {error}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
