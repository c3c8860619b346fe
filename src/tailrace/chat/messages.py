"""Messages of a conversation, in the form that all dialects share."""

from __future__ import annotations

from typing import Any

#: ``role``, ``content`` (a string, or a list of text parts), and further keys for the template.
Message = dict[str, Any]


def text_part(text: str) -> dict[str, str]:
    """A content part with this text."""
    return {"type": "text", "text": text}


def joined_text(content: Any) -> str:
    """The content as one string; each part is a line."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content or ())
