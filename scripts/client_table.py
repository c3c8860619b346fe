"""Writes the table of proven clients into docs/clients.md: ``python3 scripts/client_table.py``.

It is made from ``tests/clients/results.json``, which ``make test-clients`` brings up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tests" / "clients" / "results.json"
BEGIN = "<!-- clients: written by scripts/client_table.py -->"
END = "<!-- end of clients -->"
WAYS = {"direct": "directly", "relay": "behind a relay", "litellm": "behind litellm's proxy"}


def load() -> dict[str, Any]:
    """The results."""
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


def cell(held: dict[str, str] | None) -> str:
    """The result of one way to use a client."""
    if held is None:
        return ""
    failed = [proof for proof, outcome in held.items() if outcome != "passed"]
    whole = f"{len(held) - len(failed)} of {len(held)}"
    return f"{whole}: not {', '.join(failed)}" if failed else whole


def summary(results: dict[str, Any]) -> str:
    """The table: a client a line, and how many of its proofs have held on each way."""
    lines = ["| client | version | API | " + " | ".join(WAYS.values()) + " |", "|---|---|---|" + "---|" * len(WAYS)]
    for client in results.values():
        cells = [cell(client["ways"].get(way)) for way in WAYS]
        lines.append(f"| {client['title']} | {client['version']} | {client['api']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def replaced(text: str, table: str) -> str:
    """The document with another table. Raises ValueError when it has no place for one."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"there is no {BEGIN} with {END} after it")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> int:
    """The command; its exit code."""
    page = ROOT / "docs" / "clients.md"
    page.write_text(replaced(page.read_text(encoding="utf-8"), summary(load())), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
