"""The files of the built page: which there are, and their bytes with headers' facts.

The names are listed once, when the server starts. So a request can name no other file, wherever its path leads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

#: Where ``scripts/setup_page.py`` leaves the page. The wheel has it, too.
FOLDER = Path(__file__).parent / "built"
#: The content codings that the build makes, best first, and the ends of their files' names.
ENCODINGS: Mapping[str, str] = {"br": ".br", "gzip": ".gz"}

_TYPES: Mapping[str, str] = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class PageFile:
    """One file. ``forms`` are its files by content coding; the empty name is the file as it is."""

    media_type: str
    forms: Mapping[str, Path]

    def encodings(self) -> list[str]:
        """The codings that there are, best first."""
        return [name for name in ENCODINGS if name in self.forms]

    def body(self, encoding: str | None) -> tuple[bytes, str]:
        """The bytes in this coding (None: as they are), and their ETag. Raises OSError."""
        return _read(self.forms[encoding or ""])


class BuiltPage:
    """See the module. ``document`` is the HTML, ``assets`` the files that it names, by name."""

    def __init__(self, document: PageFile, assets: Mapping[str, PageFile]) -> None:
        self.document = document
        self.assets = assets

    @classmethod
    def find(cls, folder: Path = FOLDER) -> BuiltPage | None:
        """The page in ``folder``; None where it isn't built."""
        document = folder / "index.html"
        if not document.is_file():
            return None
        found = (path for path in (folder / "page").iterdir() if path.suffix in _TYPES)
        return cls(
            _with_forms(document, "text/html; charset=utf-8"),
            {path.name: _with_forms(path, _TYPES[path.suffix]) for path in found},
        )


def _with_forms(path: Path, media_type: str) -> PageFile:
    compressed = {name: path.with_name(path.name + end) for name, end in ENCODINGS.items()}
    return PageFile(media_type, {"": path, **{name: form for name, form in compressed.items() if form.is_file()}})


@lru_cache(maxsize=64)
def _read(path: Path) -> tuple[bytes, str]:
    """A file's bytes and their ETag. Read when it is first wanted: most servers have no page open."""
    data = path.read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'
