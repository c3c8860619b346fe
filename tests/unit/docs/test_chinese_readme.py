"""The Chinese README has what the English one has: sections, commands, links, figures."""

from __future__ import annotations

import re

from docs_links import ROOT, targets

ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
AGAIN = "README.md has changed: translate the change in README.zh-CN.md, too"


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def test_code_blocks_are_equal() -> None:
    assert _FENCE.findall(CHINESE) == _FENCE.findall(ENGLISH), AGAIN


def test_sections_are_the_same_in_number_and_level() -> None:
    levels = [re.findall(r"^(#+) ", prose(text), re.MULTILINE) for text in (CHINESE, ENGLISH)]
    assert levels[0] == levels[1], AGAIN


def test_links_are_the_same() -> None:
    # Anchors name English headings of pages that have no translation. Each README links the other.
    other = {"README.md", "README.zh-CN.md"}
    found = [sorted(set(targets(text)) - other) for text in (CHINESE, ENGLISH)]
    assert found[0] == found[1], AGAIN


def test_commands_in_the_text_are_the_same() -> None:
    found = [sorted(re.findall(r"`[^`\n]+`", prose(text))) for text in (CHINESE, ENGLISH)]
    assert found[0] == found[1], AGAIN


def test_tables_have_the_same_figures() -> None:
    figures = []
    for text in (CHINESE, ENGLISH):
        rows = [row for row in re.findall(r"^\|.*\|$", text, re.MULTILINE) if not row.startswith("|---")]
        figures.append([re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"`[^`]*`|\([^)]*\)", "", row)) for row in rows])
    assert figures[0] == figures[1], AGAIN


def test_each_links_the_other() -> None:
    assert "README.zh-CN.md" in targets(ENGLISH)
    assert "README.md" in targets(CHINESE)
