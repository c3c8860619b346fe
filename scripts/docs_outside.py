"""What the built site would load from other hosts: pages that are read offline, or in private, load nothing."""

from __future__ import annotations

import re
from pathlib import Path

#: Elements of a page that load by themselves. A link that a reader follows isn't one.
_IN_PAGES = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?![^>]*\brel=["']?(?:canonical|alternate|next|prev))[^>]*?\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
)
_IN_STYLES = re.compile(r"""(?:url\(|@import\s+)["']?((?:https?:)?//[^"'\s)]+)""")


def outside_resources(site: Path) -> list[str]:
    """A line for each address of another host that a page or a style sheet of the site loads."""
    found = set()
    for pattern, kind in ((_IN_PAGES, "html"), (_IN_STYLES, "html"), (_IN_STYLES, "css")):
        for path in site.rglob(f"*.{kind}"):
            for match in pattern.finditer(path.read_text(encoding="utf-8")):
                address = next(group for group in match.groups() if group)
                found.add(f"{path.relative_to(site)} loads {address}")
    return sorted(found)
