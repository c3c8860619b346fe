"""A settings file for one replica, written as TOML. The standard library reads TOML and doesn't write it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tailrace.errors import ConfigurationError


def settings_file(settings: Mapping[str, Any], model: str, section: Mapping[str, Any]) -> str:
    """The text of a settings file with ``settings`` and one table ``[models.MODEL]``."""
    lines = [f"{name} = {_value(name, value)}" for name, value in settings.items() if value is not None]
    lines.append(f"\n[models.{_string(model)}]")
    lines += [f"{name} = {_value(name, value)}" for name, value in section.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"{value:+f}"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Sequence):
        return f"[{', '.join(_value(name, each) for each in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_string(key)} = {_value(name, each)}' for key, each in value.items())}}}"
    raise ConfigurationError(
        f"{name} can't be handed to a replica: {type(value).__name__} is no type of a settings file"
    )


def _string(text: str) -> str:
    """A basic string. JSON's escapes are TOML's, too, but for DEL, which JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
