"""docs/diagnosis.md has every finding of the code, and no other."""

from __future__ import annotations

from pathlib import Path

from tailrace.diagnosis.catalogue import CATALOGUE

DOCUMENT = Path(__file__).parents[3] / "docs" / "diagnosis.md"


def finding_table() -> str:
    """The findings, as docs/diagnosis.md has them."""
    lines = ["| code | severity | meaning | advice |", "|---|---|---|---|"]
    lines += [
        f"| `{code}` | {entry.severity} | {entry.meaning} | {entry.advice} |" for code, entry in CATALOGUE.items()
    ]
    return "\n".join(lines)


def test_the_findings_are_in_their_document_as_they_are_in_the_code() -> None:
    assert finding_table() in DOCUMENT.read_text(encoding="utf-8")
