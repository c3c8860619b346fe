"""How much disk the prefix states of each served model may take where the settings leave it open.

Where models are unloaded, their states go to the disk and come back with them. A model that is served alone and never
unloaded writes nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from tailrace.serving.model_spec import ModelSpec

#: MB for all models together, at most; at most this part of the disk's free space.
_TOTAL_MB = 8192
_PART_OF_FREE = 10
#: MB of a model, at least: some thousand tokens of a large model.
_MIN_MB = 64


def with_disk_share(spec: ModelSpec, models: int, folder: Path, *, on_demand: bool) -> ModelSpec:
    """The model with a number for ``keep_disk_mb`` (-1 is automatic). ``models``: how many the server serves.

    ``folder``: where the states will be; it needn't exist. ``on_demand``: see ``loads_on_demand``.
    """
    if spec.settings.keep_disk_mb >= 0:
        return spec
    unloads = on_demand or spec.settings.idle_seconds > 0
    share = max(_MIN_MB, _total_mb(folder) // models) if unloads else 0
    return msgspec.structs.replace(spec, settings=msgspec.structs.replace(spec.settings, keep_disk_mb=share))


def _total_mb(folder: Path) -> int:
    existing = next((each for each in (folder, *folder.parents) if each.exists()), None)
    if existing is None:
        return 0
    try:
        free = shutil.disk_usage(existing).free
    except OSError:
        return 0  # The file system doesn't say: the least is used.
    return min(_TOTAL_MB, free // 1_000_000 // _PART_OF_FREE)
