"""The settings that ``tailrace tune`` found for a model on this machine, and the files that they are stored in.

It has the rule that chooses a value from measured scores, and measures nothing itself.
"""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tailrace.errors import ConfigurationError
from tailrace.folders import state_folder
from tailrace.machine import cpulist
from tailrace.machine.topology import Topology

#: The ratio from which another value replaces the default one. Less is within the noise of short measurements, and the
#: default was chosen for more reasons than speed.
_MIN_RATIO = 1.03


class TuningRow(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value of one setting: a row of the table that ``tailrace tune`` prints."""

    setting: str
    value: str
    figures: tuple[float, ...]  #: tokens per second, medians: prefill, one sequence, several sequences
    ratio: float  #: its score divided by the default value's, median of the rounds
    usual: bool  #: whether it is the default value
    chosen: bool = False
    why: str = ""


class TuningRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The tuned settings of one model on one kind of machine."""

    model: str  #: the name of its file, for people
    machine: str
    usable: str  #: the usable CPUs, as a CPU list: with other CPUs the settings don't apply
    settings: dict[str, int] = {}
    weights: dict[str, str] = {}  #: for ``near-lossless`` and ``fast`` a weight format's name, or ``as-is``
    #: The placement's rules that were faster than the plan, by the setting ``devices``; none: the plan was the fastest.
    placements: dict[str, dict[str, Any]] = {}
    rows: tuple[TuningRow, ...] = ()


def choose_value(
    setting: str, default: str, rounds: Sequence[Mapping[str, float]]
) -> tuple[str, dict[str, float], str]:
    """The value to use, each value's ratio to the value ``default``, and the reason in words.

    Each round has a score for each value. Values are compared within a round, so that a machine that slows down between
    rounds favours none.
    """
    ratios = {value: statistics.median(scores[value] / scores[default] for scores in rounds) for value in rounds[0]}
    best = max(ratios, key=lambda value: ratios[value])
    if best != default and ratios[best] >= _MIN_RATIO:
        return best, ratios, f"{ratios[best]:.2f} × {default}"
    if best == default:
        return default, ratios, "the fastest"
    return default, ratios, f"{best} is at most {100 * (_MIN_RATIO - 1):.0f} % faster"


def thread_counts(cores: int, cpus: int, *, quick: bool) -> list[int]:
    """The numbers of threads to measure on ``cores`` usable cores that have ``cpus`` CPUs (SMT siblings) together."""
    if quick:
        return sorted({max(1, cores // 2), cores})
    return sorted({1, max(1, cores // 4), max(1, cores // 2), max(1, 3 * cores // 4), max(1, cores - 1), cores, cpus})


def machine_name(topology: Topology) -> str:
    """The kind of machine, which decides how fast weight formats are."""
    return f"{topology.model or 'unknown CPU'} ({platform.machine()})"


class TuningStore:
    """A folder of records: a JSON file for each model, kind of machine and version of llama.cpp.

    The folder need not exist yet.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` None is ``tuned`` in the user's state folder."""
        self.folder = folder or state_folder() / "tuned"

    def find(self, fingerprint: str, topology: Topology, version: str) -> TuningRecord | None:
        """The record of the model with this fingerprint, for llama.cpp's ``version``; None when there is none.

        Raises ConfigurationError when the record can't be read.
        """
        path = self.path(fingerprint, topology, version)
        try:
            return msgspec.json.decode(path.read_bytes(), type=TuningRecord)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigurationError(f"{path} can't be read: {error}. Remove it, or run tailrace tune again") from error

    def save(self, tuned: TuningRecord, fingerprint: str, topology: Topology, version: str) -> Path:
        """Write the record atomically; returns its path. Raises ConfigurationError when it can't be written."""
        path = self.path(fingerprint, topology, version)
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(tuned)))
            os.replace(draft, path)
        except OSError as error:
            raise ConfigurationError(f"{path} can't be written: {error}. Set XDG_STATE_HOME elsewhere") from error
        return path

    def path(self, fingerprint: str, topology: Topology, version: str) -> Path:
        """The path of this model's record, which need not exist."""
        key = hashlib.sha256("\n".join((fingerprint, machine_name(topology), version)).encode()).hexdigest()
        return self.folder / f"{key[:32]}.json"


def usable_cpus(topology: Topology) -> str:
    """The usable CPUs as a CPU list."""
    return cpulist.format_cpus(topology.usable)
