"""What was measured of a model on this machine: which value of each setting won, and where that is remembered. Pure but
for the files of ``TuningStore``; it measures nothing itself.
"""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tailrace.errors import ConfigurationError
from tailrace.folders import state_folder
from tailrace.machine import cpulist
from tailrace.machine.topology import Topology

#: How much faster than the usual value another has to be to replace it: less is within the noise of short measurements,
#: and the usual value was chosen with more in mind than speed alone.
_BETTER = 1.03


class TuningRow(msgspec.Struct, frozen=True, kw_only=True):
    """One value of one setting, measured: a line of the table."""

    setting: str
    value: str
    figures: tuple[float, ...]  #: tokens a second, medians: reading, one stream, several streams
    ratio: float  #: its score as a multiple of the usual value's, median of the rounds
    usual: bool  #: whether it is what is used where nothing is set
    chosen: bool = False
    why: str = ""


class TuningRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one model on one kind of machine."""

    model: str  #: its file's name, for people
    machine: str
    usable: str  #: CPUs that could be used, as the kernel writes them: with others the settings mean nothing
    settings: dict[str, int] = {}
    weights: dict[str, str] = {}  #: for ``near-lossless`` and ``fast`` a weight format's name, or ``as-is``
    rows: tuple[TuningRow, ...] = ()


def choose_value(setting: str, usual: str, rounds: Sequence[Mapping[str, float]]) -> tuple[str, dict[str, float], str]:
    """The value to use of those that every round has a score for, each value's ratio to ``usual``, and why.

    Values are compared within a round, so that a machine that slows down between rounds favours none.
    """
    ratios = {value: statistics.median(scores[value] / scores[usual] for scores in rounds) for value in rounds[0]}
    best = max(ratios, key=lambda value: ratios[value])
    if best != usual and ratios[best] >= _BETTER:
        return best, ratios, f"{ratios[best]:.2f} × {usual}"
    if best == usual:
        return usual, ratios, "the fastest"
    return usual, ratios, f"{best} is at most {100 * (_BETTER - 1):.0f} % faster"


def thread_counts(cores: int, cpus: int, *, quick: bool) -> list[int]:
    """Numbers of threads worth measuring on so many usable cores with so many CPUs (SMT siblings) in all."""
    if quick:
        return sorted({max(1, cores // 2), cores})
    return sorted({1, max(1, cores // 4), max(1, cores // 2), max(1, 3 * cores // 4), max(1, cores - 1), cores, cpus})


def machine_name(topology: Topology) -> str:
    """The kind of machine that formats' speeds hang on."""
    return f"{topology.model or 'unknown CPU'} ({platform.machine()})"


class TuningStore:
    """The records of one folder, which need not exist yet: a JSON file for each model, machine and llama.cpp."""

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` None is ``$XDG_STATE_HOME/tailrace/tuned``, or the same under ``~/.local/state``."""
        self.folder = folder or state_folder() / "tuned"

    def find(self, fingerprint: str, topology: Topology, version: str) -> TuningRecord | None:
        """What is remembered of the model with this fingerprint under llama.cpp's ``version``; None for nothing.

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
        """Remember ``tuned``, in one step; where. Raises ConfigurationError when it can't be written."""
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
        """Where the record of this model on this machine is, or would be."""
        key = hashlib.sha256("\n".join((fingerprint, machine_name(topology), version)).encode()).hexdigest()
        return self.folder / f"{key[:32]}.json"


def usable_cpus(topology: Topology) -> str:
    """The usable CPUs as the kernel writes them."""
    return cpulist.format_cpus(topology.usable)
