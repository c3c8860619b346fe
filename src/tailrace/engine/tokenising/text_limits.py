"""The limits of a job's process. They grow with the text at most linearly, so no text takes quadratic time."""

from __future__ import annotations

#: Bytes of memory beside the stack, and for each character: the tokenizers' own lists take up to 250.
MEMORY_BYTES = 128 * 1024**2
MEMORY_PER_CHARACTER = 512

#: llama.cpp's regular expressions recurse for each character of a run: up to 460 bytes.
_STACK_PER_CHARACTER = 768
_MIN_STACK = 8 * 1024**2
#: A run of 350,000 characters or more needs more than this, and is refused.
_MAX_STACK = 256 * 1024**2


def cpu_seconds(characters: int) -> float:
    """Seconds of CPU that a job of this size may take. Ordinary text takes about 0.6 s for a million characters."""
    return 2.0 + 8e-6 * characters


def stack_bytes(characters: int) -> int:
    """The stack of a job of this size. Only the used part takes memory."""
    return min(_MAX_STACK, _MIN_STACK + _STACK_PER_CHARACTER * characters) // 65536 * 65536
