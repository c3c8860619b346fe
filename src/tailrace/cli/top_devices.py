"""The part of ``tailrace top`` about devices: figures, links to workers, and what a placed model has on each. Pure.

A server on one machine without a GPU has no such part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tailrace.cli import console_output
from tailrace.diagnosis.hardware_report import LinkStats
from tailrace.diagnosis.report import Stats
from tailrace.worker_protocol.device_reading import DeviceReading

#: Columns of a terminal from which all columns are shown.
_WIDE = 76
#: Characters of a worker's address.
_MAX_NAME = 24


class _Host(NamedTuple):
    """A machine with devices."""

    name: str  #: ``local``, or the worker's address
    devices: tuple[DeviceReading, ...]
    links: tuple[LinkStats, ...] = ()  #: of all engines that use it


def devices_part(stats: Stats, width: int) -> Iterator[RenderableType]:
    """The lines; none where there is a plain CPU alone."""
    hosts = list(_hosts(stats))
    if len(hosts) == 1 and not stats.devices and all(each.device == "cpu" for each in hosts[0].devices):
        return
    yield Text()
    yield _table(hosts, width)
    if stats.devices:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, style="dim", min_width=len("between tokens"))
        grid.add_column(overflow="fold")
        grid.add_row("layers", Text(", ".join(f"{share.layers} on {share.name}" for share in stats.devices)))
        for engine in stats.engines:
            if (speed := engine.speed) is not None:
                measured = f"{speed.decode:.0f} tokens/s" if speed.decode else "not measured yet"
                grid.add_row("decoding", f"{measured}, predicted {speed.predicted_decode:.0f} tokens/s")
        yield grid


def _hosts(stats: Stats) -> Iterator[_Host]:
    yield _Host("local", stats.hardware.local)
    found: dict[str, _Host] = {}
    for each in stats.hardware.workers:
        known = found.get(each.worker, _Host(each.worker, each.devices))
        links = known.links if each.link is None else (*known.links, each.link)
        found[each.worker] = known._replace(links=links)
    yield from found.values()


def _table(hosts: Iterable[_Host], width: int) -> Table:
    """Narrow terminals get its first columns."""
    headings = ["DEVICE", "MEMORY USED", "USE %"]
    if width >= _WIDE:
        headings += ["°C", "W", "SENDS/s", "GETS/s"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True, overflow="ellipsis")
    for host in hosts:
        name = host.name if len(host.name) <= _MAX_NAME else f"…{host.name[1 - _MAX_NAME :]}"
        # A link is the worker's, whichever of its devices the bytes are for.
        link = [""] * 2
        if host.links:
            rates = sum(each.sent_rate for each in host.links), sum(each.received_rate for each in host.links)
            link = [console_output.size(round(rate)) for rate in rates]
        for number, device in enumerate(host.devices):
            row = [f"{name} {device.device}", _memory(device), _percent(device.use)]
            row += [_whole(device.temperature), _whole(device.power), *(link if number == 0 else ("", ""))]
            table.add_row(*map(Text, row[: len(headings)]))
        if not host.devices:
            table.add_row(*map(Text, [name, "", "", "", "", *link][: len(headings)]))
    return table


def _memory(device: DeviceReading) -> str:
    if device.memory is None:
        return ""
    total = console_output.size(device.memory)
    return f"? of {total}" if device.free is None else f"{console_output.size(device.memory - device.free)} of {total}"


def _percent(part: float | None) -> str:
    return "" if part is None else f"{100 * part:.0f}"


def _whole(number: float | None) -> str:
    return "" if number is None else f"{number:.0f}"
