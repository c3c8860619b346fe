"""The documents as pages of the site: where each one goes, and what is changed on the way.

Owns the folder that the site is built from (``build/docs``). The documents themselves are never changed. A link to a
page leads to that page; a link to another file of the repository becomes its name, because the site has no sources.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from docs_links import ROOT, replace_links
from docs_plots import PLOTS, plots

STAGED = ROOT / "build" / "docs"
#: Documents outside of docs that are pages, too, and documents that stand for another page.
_ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results.md": "results.md",
    "README.md": "index.md",
    "README.zh-CN.md": "zh-cn.md",
}
#: Documents whose page is made of another one.
_NO_PAGES = frozenset({"README.md"})
#: Where a list begins right after a paragraph, which Python's Markdown takes for more of the paragraph.
_LIST_AFTER_TEXT = re.compile(r"^((?![-*|>#] |\d+\. |\s).*\S.*)\n(?=(?:- |\d+\. ))", re.MULTILINE)
#: A block of commands without their output: each line is one, or goes on where the line before ended with a backslash.
_COMMANDS = re.compile(r"^```console\n((?:\$ .*\n(?:(?<=\\\n).*\n)*)+)```$", re.MULTILINE)
#: Code in a table: GitHub wants a backslash before its pipes, and Python's Markdown would show it.
_TABLE_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_CODE = re.compile(r"`[^`]+`")
#: The place of a plot in a document.
_PLOT = re.compile(r"^<!-- plot: ([\w-]+) -->$", re.MULTILINE)
#: Python's Markdown wants an empty line between a table and a comment: it takes the one for a part of the other.
_TABLE_AFTER_COMMENT = re.compile(r"^(<!--.*-->)\n(?=\|)", re.MULTILINE)
_COMMENT_AFTER_TABLE = re.compile(r"^(\|.*)\n(?=<!--)", re.MULTILINE)


def pages() -> dict[Path, Path]:
    """The page of each document and picture, both relative: to the repository, and to the staged folder."""
    found = {path.relative_to(ROOT): path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.*")}
    found.update({Path(document): Path(page) for document, page in _ELSEWHERE.items()})
    return found


def staged_text(document: Path, text: str, places: dict[Path, Path]) -> str:
    """The page of a document, which is named relative to the repository.

    Raises ValueError for a link that leads nowhere.
    """
    page = places[document]

    def lead(match: re.Match[str]) -> str:
        image, label, link = match.groups()
        if "://" in link or link.startswith(("#", "mailto:")):
            return match.group()
        path, mark, anchor = link.partition("#")
        target = Path(os.path.normpath(document.parent / path))
        if target in places:
            return f"{image}[{label}]({os.path.relpath(places[target], page.parent)}{mark}{anchor})"
        if not (ROOT / target).exists():
            raise ValueError(f"{document}: {link} leads nowhere")
        return f"{label} (`{target}`)"

    text = _PLOT.sub(_plot, replace_links(text, lead))
    # The page's button copies a block whole, so the prompts go.
    text = _COMMANDS.sub(lambda match: f"```sh\n{re.sub('^[$] ', '', match.group(1), flags=re.MULTILINE)}```", text)
    text = _TABLE_ROW.sub(lambda row: _CODE.sub(lambda code: code.group().replace("\\|", "|"), row.group()), text)
    text = _LIST_AFTER_TEXT.sub(r"\1\n\n", text)
    return _COMMENT_AFTER_TABLE.sub(r"\1\n\n", _TABLE_AFTER_COMMENT.sub(r"\1\n\n", text))


def _plot(match: re.Match[str]) -> str:
    """The pictures in place of a plot's mark: the theme shows one of them."""
    name = match.group(1)
    title = PLOTS[name]().title
    return f"![{title}](plots/{name}.svg#only-light)\n![{title}](plots/{name}-dark.svg#only-dark)"


def stage() -> None:
    """Bring the folder that the site is built from up to date. What hasn't changed keeps its time."""
    places = pages()
    wanted = {STAGED / page for source, page in places.items() if str(source) not in _NO_PAGES}
    for source, page in places.items():
        if str(source) in _NO_PAGES:
            continue
        content = (ROOT / source).read_bytes()
        if source.suffix == ".md":
            content = staged_text(source, content.decode(), places).encode()
        _write(STAGED / page, content)
    for name, plot in plots().items():
        _write(STAGED / "plots" / name, plot.encode())
    for path in STAGED.rglob("*.md"):
        if path not in wanted:
            path.unlink()


def _write(target: Path, content: bytes) -> None:
    """Write a file of the folder where its content has changed."""
    if not target.exists() or target.read_bytes() != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
