"""Links of Markdown documents: finds them, and says which of them lead nowhere. Reads files alone, no network.

Anchors are those that GitHub makes of headings; the site's are made by the same rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: A link or an image: ``!`` of an image, the label, the target.
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^)\s]+)\)")
_FENCE = r"^(?P<fence> *(?:```+|~~~+)).*?^(?P=fence)[ \t]*$"
_SPAN = r"(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
_CODE = re.compile(f"{_FENCE}|{_SPAN}", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+?)(?: #+)?$", re.MULTILINE)


def documents() -> list[Path]:
    """All documents whose links are held: at the top, of docs, and of benchmarks."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def replace_links(text: str, replace: Callable[[re.Match[str]], str]) -> str:
    """The text with what ``replace`` makes of each match of ``LINK``. Nothing in code is a link."""
    code: list[str] = []

    def keep(match: re.Match[str]) -> str:
        code.append(match.group())
        return f"\0{len(code) - 1}\0"

    linked = LINK.sub(replace, _CODE.sub(keep, text))
    return re.sub(r"\0(\d+)\0", lambda match: code[int(match.group(1))], linked)


def targets(text: str) -> list[str]:
    """Where the links and images of a document lead, in their order."""
    found: list[str] = []

    def note(match: re.Match[str]) -> str:
        found.append(match.group(3))
        return match.group()

    replace_links(text, note)
    return found


def anchors(text: str) -> set[str]:
    """The names by which links reach the document's headings."""
    seen: Counter[str] = Counter()
    names = set()
    for heading in _HEADING.findall(re.sub(_FENCE, "", text, flags=re.MULTILINE | re.DOTALL)):
        name = re.sub(r"[^\w\- ]", "", LINK.sub(r"\2", heading).lower()).replace(" ", "-")
        names.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def dead_links(document: Path) -> list[str]:
    """A sentence for each relative link of a document that leads nowhere."""
    text = document.read_text(encoding="utf-8")
    problems = []
    for link in targets(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists():
            problems.append(f"{link} leads nowhere")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            problems.append(f"{link}: there is no such heading")
    return problems
