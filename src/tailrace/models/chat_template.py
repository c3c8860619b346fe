"""The chat template that replaces the model's own: one of llama.cpp's names, or a file."""

from __future__ import annotations

from pathlib import Path

from tailrace.errors import ConfigurationError
from tailrace.models.named_templates import NAMED_TEMPLATES


def read_chat_template(given: str) -> str:
    """The text of the template with this name, or of this file. Raises ConfigurationError with setting and remedy."""
    if (named := NAMED_TEMPLATES.get(given)) is not None:
        return named
    file = Path(given).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigurationError(
            f"chat_template: {given} can't be read ({error}); name a file with a Jinja chat template in UTF-8, or one "
            f"of {', '.join(NAMED_TEMPLATES)}"
        ) from error
    if not text.strip():
        raise ConfigurationError(f"chat_template: {given} is empty; name a file with a Jinja chat template")
    return text
