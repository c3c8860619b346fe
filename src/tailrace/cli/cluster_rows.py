"""The words for what runs of a cluster: lines about changes, and tables. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from tailrace.cluster.directory_book import IngressRecord, ReplicaRecord
from tailrace.cluster.status import ClusterStatus

#: Addresses that stand for all of a node.
_ANY = ("0.0.0.0", "::")


def changes(before: ClusterStatus, now: ClusterStatus) -> Iterator[str]:
    """A line for each replica, ingress or hindrance that is new, has changed or has gone."""
    old = {each.id: each for each in before.replicas}
    for replica in now.replicas:
        known = old.pop(replica.id, None)
        if known is None or known.phase != replica.phase:
            where = f" at {replica.host}:{replica.port}" if replica.phase == "ready" else f" on {replica.node}"
            yield f"{replica.model}: replica {replica.id} {_PHASES[replica.phase]}{where}"
    for replica in old.values():
        yield f"{replica.model}: replica {replica.id} has gone from {replica.node}"
    listening = {each.id: each.port for each in before.ingresses}
    for ingress in now.ingresses:
        if ingress.port and listening.get(ingress.id) != ingress.port:
            yield f"ingress {ingress.id} listens on {_url(ingress)}"
    for name, message in now.hindrances.items():
        if before.hindrances.get(name) != message:
            yield f"{name}: {message}"


_PHASES = {"starting": "starts", "ready": "is ready", "draining": "drains"}


def listening_urls(status: ClusterStatus) -> list[str]:
    """Where clients reach the cluster."""
    return [_url(ingress) for ingress in status.ingresses if ingress.port]


def tables(status: ClusterStatus) -> Iterator[Table]:
    """The tables of ``tailrace cluster status``."""
    title = f"tailrace cluster: {status.status}"
    replicas = _table(title, ("MODEL", "REPLICA", "PHASE", "NODE", "ADDRESS", "RUNNING", "WAITING", "WAITING TOKENS"))
    for replica in status.replicas:
        replicas.add_row(*map(escape, _row(replica)))
    served = {name for ingress in status.ingresses for name in ingress.models}
    for model in sorted(served - {replica.model for replica in status.replicas}):
        replicas.add_row(escape(model), *("-",) * 7)
    yield replicas
    ingresses = _table("", ("INGRESS", "NODE", "ADDRESS", "WANTED"))
    for ingress in status.ingresses:
        wanted = ", ".join(f"{model}: {count}" for model, count in ingress.wanted.items())
        address = _url(ingress) if ingress.port else "-"
        ingresses.add_row(*map(escape, (ingress.id, ingress.node, address, wanted or "-")))
    yield ingresses
    if status.hindrances:
        hindrances = _table("", ("DEPLOYMENT", "MESSAGE"))
        for name, message in status.hindrances.items():
            hindrances.add_row(escape(name), escape(message))
        yield hindrances


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(replica: ReplicaRecord) -> tuple[str, ...]:
    load = replica.load
    figures = ("-",) * 3
    if load is not None:
        figures = (f"{load.running} of {load.slots}", str(load.waiting), str(load.waiting_prompt_tokens))
    address = f"{replica.host}:{replica.port}" if replica.port else "-"
    return (replica.model, replica.id, replica.phase, replica.node, address, *figures)


def _url(ingress: IngressRecord) -> str:
    host = ingress.node if ingress.host in _ANY else ingress.host
    return f"{'https' if ingress.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{ingress.port}"
