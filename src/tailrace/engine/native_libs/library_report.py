"""The state of a native library on this machine, with its reason: for ``tailrace doctor``."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from tailrace.engine.native_libs import NativeUnavailable, UnsupportedCpu
from tailrace.engine.native_libs.library import Proof, read_record
from tailrace.engine.native_libs.tiers import TIERS, TierName

#: ``used`` by an engine; ``not used`` though it could be; ``unavailable`` on this CPU or machine; ``wrong`` in a proof.
State = Literal["used", "not used", "unavailable", "wrong"]


class LibraryReport(msgspec.Struct, frozen=True, kw_only=True):
    """One library of one tier."""

    name: str
    tier: TierName
    state: State
    reason: str  #: the compiler and the proof of a library that is used; why others aren't
    path: str | None = None


def report_library(name: str, tier: TierName, build: Callable[[], Path], proof: Proof, *, prove: bool) -> LibraryReport:
    """Build the library, as an engine would at its start, and prove it again where ``prove`` says so."""
    try:
        path = build()
    except NativeUnavailable as error:
        return LibraryReport(name=name, tier=tier, state="unavailable", reason=str(error))
    record = read_record(path)
    reason = f"{record.compiler}; proved {record.proved} UTC" if record is not None else "no record of its proof"
    if prove:
        if wrong := proof(ctypes.CDLL(str(path))):
            reason = f"computes {', '.join(wrong)} wrongly: delete {path}"
            return LibraryReport(name=name, tier=tier, state="wrong", reason=reason, path=str(path))
        reason = f"{reason}; proved again now"
    return LibraryReport(name=name, tier=tier, state="used", reason=reason, path=str(path))


def report_tiers(
    name: str,
    tiers: Sequence[TierName],
    choices: dict[str, tuple[TierName, ...]],
    choice: str,
    build: Callable[[TierName], Path],
    proof: Proof,
    *,
    prove: bool,
) -> list[LibraryReport]:
    """A report on each of ``tiers``, the fastest first, with the setting ``kernels`` at ``choice``, which allows the
    tiers ``choices`` has. ``prove`` repeats the proof of each tier that this CPU has, also where it isn't used.
    """
    libraries: list[LibraryReport] = []
    for tier in tiers:
        try:
            TIERS[tier].require()
        except UnsupportedCpu as error:
            libraries.append(LibraryReport(name=name, tier=tier, state="unavailable", reason=str(error)))
            continue
        used = [report.tier for report in libraries if report.state == "used"]
        unused = f"{used[0]} is faster" if used else ""
        if tier not in choices.get(choice, ()):
            unused = f"the setting kernels is {choice}"
        if unused and not prove:
            libraries.append(LibraryReport(name=name, tier=tier, state="not used", reason=unused))
            continue
        report = report_library(name, tier, partial(build, tier), proof, prove=prove)
        if unused and report.state == "used":
            report = msgspec.structs.replace(report, state="not used", reason=f"{unused}; {report.reason}")
        libraries.append(report)
    return libraries
