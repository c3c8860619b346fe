"""The settings of a command that runs a model: what was tuned for it comes in where nothing else is said."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tailrace.cli.model_argument import find_model
from tailrace.errors import ModelError
from tailrace.machine.topology import read_topology
from tailrace.machine.tuning_record import TuningStore, usable_cpus
from tailrace.models.file_fingerprint import fingerprint
from tailrace.serving.device_list import LOCAL, device_key
from tailrace.settings import Resolved, resolve


def resolve_tuned(flags: Mapping[str, Any], *, file: Path | None = None) -> Resolved:
    """``settings.resolve``, and over the defaults what ``tailrace tune`` remembers of the model on this machine.

    Raises ConfigurationError.
    """
    return tuned(resolve(flags, file=file))


def tuned(resolved: Resolved, path: Path | None = None) -> Resolved:
    """The settings of the model that they name, with what ``tailrace tune`` remembers. ``path``: its file, where it is
    known. Raises ConfigurationError.
    """
    store = TuningStore()
    # Without records no file needs to be read, of which there may be many.
    if resolved.settings.backend == "fake" or not store.folder.is_dir():
        return resolved
    try:
        path = path or find_model(resolved.settings).path
        topology = read_topology()
        found = store.find(fingerprint(path), topology, version("llama-cpp-python"))
    except ModelError:
        return resolved  # The error is reported where the model is loaded.
    if found is None or found.usable != usable_cpus(topology):
        return resolved
    values: dict[str, Any] = dict(found.settings)
    # Without the setting the planner divides a model between this machine and its GPU, where it has one.
    devices = resolved.settings.devices or LOCAL
    if rules := found.placements.get(device_key(devices)):
        values["placement"] = {**rules, "remembered": True}
    return resolved.tuned(values)
