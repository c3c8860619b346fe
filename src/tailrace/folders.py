"""Where what tailrace keeps for a user lies: the XDG base directories, and their usual places where none are set."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """What can be had again: ``$XDG_CACHE_HOME/tailrace``, or the same under ``~/.cache``."""
    return _base("XDG_CACHE_HOME", ".cache") / "tailrace"


def state_folder() -> Path:
    """What has come about here: ``$XDG_STATE_HOME/tailrace``, or the same under ``~/.local/state``."""
    return _base("XDG_STATE_HOME", ".local/state") / "tailrace"


def config_folder() -> Path:
    """What the user has written: ``$XDG_CONFIG_HOME/tailrace``, or the same under ``~/.config``."""
    return _base("XDG_CONFIG_HOME", ".config") / "tailrace"


def _base(variable: str, usual: str) -> Path:
    named = os.environ.get(variable)  # Empty is unset, as the specification says.
    return Path(named) if named else Path.home() / usual
