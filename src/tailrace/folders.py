"""The user's folders for cache, state and settings, as the XDG Base Directory Specification defines them."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """For files that can be made or fetched again: ``$XDG_CACHE_HOME/tailrace``, by default under ``~/.cache``."""
    return _base("XDG_CACHE_HOME", ".cache") / "tailrace"


def state_folder() -> Path:
    """For records of this machine: ``$XDG_STATE_HOME/tailrace``, by default under ``~/.local/state``."""
    return _base("XDG_STATE_HOME", ".local/state") / "tailrace"


def config_folder() -> Path:
    """For the user's own files: ``$XDG_CONFIG_HOME/tailrace``, by default under ``~/.config``."""
    return _base("XDG_CONFIG_HOME", ".config") / "tailrace"


def _base(variable: str, default: str) -> Path:
    value = os.environ.get(variable)  # The specification treats an empty value as unset.
    return Path(value) if value else Path.home() / default
