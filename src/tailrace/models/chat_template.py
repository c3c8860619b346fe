"""Reads the file of a chat template that replaces the model's own."""

from __future__ import annotations

from pathlib import Path

from tailrace.errors import ConfigurationError


def read_chat_template(path: str) -> str:
    """The template's text. Raises ConfigurationError with the setting and the remedy."""
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigurationError(
            f"chat_template: {path} can't be read ({error}); name a file with a Jinja chat template in UTF-8"
        ) from error
    if not text.strip():
        raise ConfigurationError(f"chat_template: {path} is empty; name a file with a Jinja chat template")
    return text
