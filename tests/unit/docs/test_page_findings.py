"""The page has the meaning of every finding in Chinese."""

from __future__ import annotations

import re
from pathlib import Path

from tailrace.diagnosis.catalogue import CATALOGUE

_TEXTS = Path(__file__).parents[3] / "web" / "src" / "language" / "chinese" / "findings.ts"


def test_each_finding_has_its_meaning_in_chinese() -> None:
    entries = re.findall(r'^  (\w+): \{\s*meaning:\s*"([^"]+)",\s*advice:\s*"([^"]*)"', _TEXTS.read_text("utf-8"), re.M)
    assert [code for code, _, _ in entries] == list(CATALOGUE)
    # Where there is nothing to do, no language has advice.
    assert {code for code, _, advice in entries if advice} == {
        code for code, entry in CATALOGUE.items() if entry.advice
    }
