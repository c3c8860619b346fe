"""Every relative link and picture of the documents leads somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs_links import ROOT, anchors, dead_links, documents, targets


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    assert dead_links(document) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# A head\n\n[a](#a-head) [b](#none) [`c`](gone.md) ![d](gone.png) [e](other.md#x) [f](https://example.org/)\n"
        "`[code](gone.md)`\n\n```\n[code](gone.md)\n```\n",
        encoding="utf-8",
    )
    (tmp_path / "other.md").write_text("# Y\n", encoding="utf-8")
    assert dead_links(document) == [
        "#none: there is no such heading",
        "gone.md leads nowhere",
        "gone.png leads nowhere",
        "other.md#x: there is no such heading",
    ]


def test_anchors_are_those_of_github() -> None:
    text = "# `a_b`: what [it](x.md) does\n\n## Same\n\n## Same\n\n```\n# no heading\n```\n\n## 五分钟\n"
    assert anchors(text) == {"a_b-what-it-does", "same", "same-1", "五分钟"}


def test_targets_come_in_their_order() -> None:
    assert targets("[`a`](x.md#y) ![b](z.png) `[c](n.md)`") == ["x.md#y", "z.png"]
