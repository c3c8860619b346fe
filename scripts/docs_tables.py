"""The parts of the documents that are made from the code: ``python scripts/docs.py tables`` writes them again.

A document has such a part between ``<!-- made from the code: NAME -->`` and ``<!-- end of NAME -->``. Owns which parts
there are. Other text of the documents is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from docs_commands import commands_reference
from docs_settings import settings_table
from tailrace.cluster.metrics.ingress_metrics import INGRESS_METRICS, REPLICA_METRICS
from tailrace.cluster.metrics.ingress_metrics import MODEL_METRICS as CLUSTER_MODEL_METRICS
from tailrace.conformance.registry import RULES
from tailrace.diagnosis.catalogue import CATALOGUE
from tailrace.observe.device_metrics import DEVICE_METRICS, LINK_METRICS
from tailrace.observe.llama_server_metrics import LLAMA_SERVER_METRICS
from tailrace.observe.metric import Metric
from tailrace.observe.model_metrics import MODEL_METRICS
from tailrace.observe.own_metrics import ENGINE_METRICS, SERVER_METRICS
from tailrace.observe.vllm_metrics import VLLM_METRICS

DOCUMENTS = Path(__file__).resolve().parent.parent / "docs"


def metrics_table(metrics: Sequence[Metric[Any]]) -> str:
    """The metrics of one table of the code, a row each."""
    lines = ["| metric | type | labels | of |", "|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines)


def findings_table() -> str:
    """What ``tailrace top`` may say of a server."""
    lines = ["| code | severity | meaning | advice |", "|---|---|---|---|"]
    lines += [
        f"| `{code}` | {entry.severity} | {entry.meaning} | {entry.advice} |" for code, entry in CATALOGUE.items()
    ]
    return "\n".join(lines)


def rules_table() -> str:
    """The rules of ``tailrace check``."""
    lines = ["| rule | wire | dialect | severity | what has to hold | otherwise |", "|---|---|---|---|---|---|"]
    for rule in RULES.values():
        lines.append(
            f"| `{rule.id}` | {rule.wire or ''} | {rule.dialect} | {rule.severity} | {rule.title} | {rule.breaks} |"
        )
    return "\n".join(lines)


#: The parts by document and name. Each gets its present text, of which a table may keep what is written by hand.
PARTS: dict[str, dict[str, Callable[[str], str]]] = {
    "options.md": {"commands": lambda _: commands_reference()},
    "conformance.md": {"rules": lambda _: rules_table()},
    "diagnosis.md": {"findings": lambda _: findings_table()},
    "metrics.md": {
        "vllm": lambda _: metrics_table(VLLM_METRICS),
        "engine": lambda _: metrics_table(ENGINE_METRICS),
        "link": lambda _: metrics_table(LINK_METRICS),
        "device": lambda _: metrics_table(DEVICE_METRICS),
        "model": lambda _: metrics_table(MODEL_METRICS),
        "server": lambda _: metrics_table(SERVER_METRICS),
        "llama-server": lambda _: metrics_table(LLAMA_SERVER_METRICS),
        "ingress": lambda _: metrics_table(INGRESS_METRICS),
        "cluster model": lambda _: metrics_table(CLUSTER_MODEL_METRICS),
        "replica": lambda _: metrics_table(REPLICA_METRICS),
    },
    "settings.md": {"settings": settings_table},
}


def rewritten(document: str, text: str) -> str:
    """The document with all its parts made anew. Raises ValueError where a part has no place in it."""
    for name, make in PARTS[document].items():
        begin, end = f"<!-- made from the code: {name} -->\n", f"\n<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        old, ended, after = rest.partition(end)
        if not (found and ended):
            raise ValueError(f"docs/{document} has no place for the part {name!r}: {begin.strip()} and {end.strip()}")
        text = f"{before}{begin}{make(old)}{end}{after}"
    return text


def write_tables() -> list[str]:
    """Bring all documents up to date; the names of those that have changed."""
    changed = []
    for document in PARTS:
        path = DOCUMENTS / document
        old = path.read_text(encoding="utf-8")
        new = rewritten(document, old)
        if new != old:
            path.write_text(new, encoding="utf-8")
            changed.append(document)
    return changed
