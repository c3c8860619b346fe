"""The operations that the kernels compute on this machine, and why: for ``tailrace doctor``, which runs no model."""

from __future__ import annotations

import ctypes
from functools import partial

import msgspec

from tailrace.engine.kernels.build import KERNEL_TIERS, TIERS_OF_CHOICE, build_kernels, prove_kernels
from tailrace.engine.kernels.formats import cache_types_of, formats_of
from tailrace.engine.native_libs import NativeUnavailable
from tailrace.engine.native_libs.ggml_headers import KNOWN_VERSIONS, binding_version
from tailrace.engine.native_libs.library_report import LibraryReport, report_tiers


class KernelReport(msgspec.Struct, frozen=True, kw_only=True):
    """The kernels of this machine."""

    llama_cpp: str  #: the installed version of llama-cpp-python, and whether tailrace is tested with it
    libraries: list[LibraryReport]  #: one for each tier, the fastest first
    cache_types: list[str]  #: types of K and V that the used library computes attention over
    formats: list[str]  #: weight formats that the used library multiplies with; none where none is used
    repacked: list[str]  #: those of them that it repacks where memory allows


def report_kernels(choice: str, *, prove: bool = False) -> KernelReport:
    """The operations of an engine here with the setting ``kernels`` at ``choice``.

    ``prove`` repeats the proof of each tier that this CPU has, also where it isn't used.
    """
    build = partial(build_kernels, again=prove)
    libraries = report_tiers("kernels", KERNEL_TIERS, TIERS_OF_CHOICE, choice, build, prove_kernels, prove=prove)
    path = next((report.path for report in libraries if report.state == "used"), None)
    used = ctypes.CDLL(path) if path is not None else None
    formats = formats_of(used) if used is not None else []
    return KernelReport(
        llama_cpp=_llama_cpp(),
        libraries=libraries,
        cache_types=cache_types_of(used) if used is not None else [],
        formats=[each.name for each in formats],
        repacked=[each.name for each in formats if each.repacked],
    )


def _llama_cpp() -> str:
    try:
        version = binding_version()
    except NativeUnavailable as error:
        return str(error)
    known = ", ".join(sorted(KNOWN_VERSIONS))
    return version if version in KNOWN_VERSIONS else f"{version}, which isn't tested with tailrace ({known} is)"
