"""The metrics of several replicas as one text, each sample with the labels ``replica`` and ``model``.

It is pure: it opens no connection. A replica's text is taken for hostile: what isn't in the format is left out, and no
text can change another replica's samples or add to the ingress's own.

Source: Prometheus' "Exposition formats", text format 0.0.4, and its rule for labels that collide (``honor_labels``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tailrace.observe.exposition import label

#: The ingress's own metrics begin with it. A replica's metrics of such names are left out.
OWN_PREFIX = "tailrace:cluster_"
#: Bytes of one replica's text. A server with one model has 80 KB.
MAX_TEXT_BYTES = 4 << 20
_MAX_LINE_CHARACTERS = 16_384
_MAX_FAMILIES = 2_000
#: Lines that are read without a pause.
_SLICE_LINES = 50

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_VALUE = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?Inf|NaN"
# A label's value may have braces: the last one ends the labels. A timestamp is dropped.
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})?[ \t]+({_VALUE})(?:[ \t]+-?\d+)?")
_LABEL = re.compile(
    r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"([^"\\]*(?:\\[\\n"][^"\\]*)*)"[ \t]*(?:,|$)', re.DOTALL
)
_COMMENT = re.compile(rf"#[ \t]+(HELP|TYPE)[ \t]+({_NAME})[ \t]*(.*)", re.DOTALL)
#: Kinds of families, and the endings of their samples' names.
_ENDINGS = {
    "counter": ("",),
    "gauge": ("",),
    "untyped": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
}


@dataclass
class _Family:
    kind: str
    help: str = ""
    samples: list[str] = field(default_factory=list)


class MergedTexts:
    """Samples of several replicas by families. Fill it with ``add``, then read ``lines``."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}
        self._owners: dict[str, str] = {}  #: each sample's name: the family that it belongs to
        self.left_out_lines = 0  #: lines that aren't in the format, or contradict those before them

    def add(self, text: bytes, *, replica: str, model: str) -> Iterator[None]:
        """Add a replica's text. Stops now and then, so that the caller can do something else."""
        reader = _TextReader(self._families, self._owners, {"replica": replica, "model": model})
        # Other line ends of Unicode are part of a value.
        for number, line in enumerate(text[:MAX_TEXT_BYTES].decode("utf-8", "replace").split("\n")):
            if not reader.read(line):
                self.left_out_lines += 1
            if number % _SLICE_LINES == _SLICE_LINES - 1:
                yield

    def lines(self) -> Iterator[str]:
        """The merged text, a family at a time."""
        for name, family in self._families.items():
            if family.samples:
                yield f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n{''.join(family.samples)}"


class _TextReader:
    """Reads the lines of one replica's text into the families of all."""

    def __init__(self, families: dict[str, _Family], owners: dict[str, str], own: dict[str, str]) -> None:
        self._families = families
        self._owners = owners
        self._own = own
        self._before = ",".join(label(name, value) for name, value in own.items())
        self._kinds: dict[str, str] = {}  #: as this text declares them
        self._helps: dict[str, str] = {}
        self._found: dict[str, _Family | None] = {}  #: by samples' names
        self._labels: dict[str, str | None] = {}  #: the rendered labels; None where they aren't in the format
        self._seen: set[tuple[str, str]] = set()

    def read(self, line: str) -> bool:
        """Whether the line was taken: a sample, a comment, or nothing."""
        if not line or line.isspace():
            return True
        if len(line) > _MAX_LINE_CHARACTERS:
            return False
        if line.startswith("#"):
            return self._read_comment(line)
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            return False
        name, raw, value = sample.groups()
        if name not in self._found:
            self._found[name] = self._family(name)
        family = self._found[name]
        raw = raw or ""
        if raw not in self._labels:
            self._labels[raw] = self._rendered(raw)
        labels = self._labels[raw]
        if family is None or labels is None or (name, labels) in self._seen:
            return False
        self._seen.add((name, labels))
        family.samples.append(f"{name}{{{labels}}} {value}\n")
        return True

    def _read_comment(self, line: str) -> bool:
        comment = _COMMENT.fullmatch(line)
        if comment is None:
            return True  # Any other comment means nothing.
        keyword, name, rest = comment.groups()
        if keyword == "HELP":
            self._helps.setdefault(name, rest)
            return True
        if rest not in _ENDINGS or name in self._kinds:
            return False
        self._kinds[name] = rest
        return True

    def _family(self, sample: str) -> _Family | None:
        """The family of a sample's name; None where the name or its kind contradicts earlier texts."""
        name = next(
            (
                base
                for ending in ("", "_bucket", "_sum", "_count")
                if sample.endswith(ending)
                and ending in _ENDINGS.get(self._kinds.get(base := sample.removesuffix(ending), ""), ())
            ),
            sample,
        )
        kind = self._kinds.get(name, "untyped")
        if name.startswith(OWN_PREFIX) or ("" not in _ENDINGS[kind] and name == sample):
            return None
        family = self._families.get(name)
        if family is None:
            if len(self._families) >= _MAX_FAMILIES:
                return None
            family = self._families[name] = _Family(kind, self._helps.get(name, ""))
        if family.kind != kind or self._owners.setdefault(sample, name) != name:
            return None
        return family

    def _rendered(self, raw: str) -> str | None:
        """The labels with the replica's own. One that the text has of the same name is kept as ``exported_NAME``."""
        parts = {}
        at = 0
        while at < len(raw):
            found = _LABEL.match(raw, at)
            if found is None:
                return None
            name, value = found.groups()
            name = f"exported_{name}" if name in self._own else name
            if name in parts or name.startswith("__"):
                return None
            parts[name] = value
            at = found.end()
        return ",".join([self._before, *(f'{name}="{value}"' for name, value in sorted(parts.items()))])
