"""What the documents have of the code is what the code has: settings, metrics, findings, rules, commands."""

from __future__ import annotations

import re

import pytest

import docs_tables
from docs_settings import settings_table
from tailrace.settings import FIELDS


@pytest.mark.parametrize("document", docs_tables.PARTS)
def test_the_document_is_as_the_code_is(document: str) -> None:
    text = (docs_tables.DOCUMENTS / document).read_text(encoding="utf-8")
    assert docs_tables.rewritten(document, text) == text, "run: make docs ARGS=tables"


def test_a_document_without_its_part_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"docs/settings\.md has no place for the part 'settings'"):
        docs_tables.rewritten("settings.md", "# Settings\n")


def test_a_setting_keeps_the_meaning_that_was_written_for_it() -> None:
    old = "\n".join(f"| `{name}` | what {name} means \\| does |" for name in FIELDS)
    table = settings_table(old)
    rows = dict(re.findall(r"^\| `(\w+)`.* \| ([^|]+ \\\| [^|]+) \|$", table, re.MULTILINE))
    assert rows == {name: f"what {name} means \\| does" for name in FIELDS}
    assert "| `parallel`<br>`--parallel`, `-np` | 8 | 1 to 256 |" in table
    assert "| `keepalive_style`<br>`--keepalive-style` | `chunk` | `chunk`, `comment` |" in table


def test_a_setting_without_a_meaning_is_named() -> None:
    with pytest.raises(ValueError, match=r"lacks .*parallel.*: add a row"):
        settings_table("| `model` | a reference |")
