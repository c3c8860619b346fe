"""When a process was started: with its id the name of a process that no later one has."""

from __future__ import annotations

from pathlib import Path


def start_ticks(pid: int, root: Path = Path("/")) -> int | None:
    """Clock ticks from the machine's start to the process's (proc(5), field 22 of ``stat``).

    None for a process that has ended, zombies included, and on systems without /proc.
    """
    try:
        text = (root / f"proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name is in brackets, and may have spaces and brackets itself.
    words = text.rpartition(")")[2].split()
    return int(words[19]) if len(words) > 19 and words[0] not in "ZX" else None
