"""``tailrace ps``: the servers of this user on this machine."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from tailrace.cli import console_output
from tailrace.cli.server_client import NoAnswer, Refused, ServerClient
from tailrace.cli.terminal import harmless
from tailrace.errors import ConfigurationError
from tailrace.machine.running_servers import ServerState, find_servers
from tailrace.settings import resolve

#: The metric with the generations of one engine that run now (docs/metrics.md).
_RUNNING = re.compile(rb"^vllm:num_requests_running(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
#: Seconds to wait for a server's answer.
_TIMEOUT = 3.0
#: Models that a line of the table names.
_MAX_NAMES = 3


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One server. ``memory``: bytes of all its processes, where pages that are shared count in parts."""

    pid: int
    url: str
    models: tuple[str, ...]
    state: Literal["starting", "ready", "silent"]
    started: str  #: ISO 8601
    uptime: int  #: seconds
    running: int | None  #: generations that run now; None: the server doesn't say, or wants another key
    memory: int | None
    log: str | None  #: None: it runs in the foreground


def ps(
    key: Annotated[
        str | None, typer.Option(envvar="TAILRACE_API_KEY", help="The servers' API key, for RUNNING.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
) -> None:
    """List the servers of this user that run on this machine, in the foreground or background."""
    servers = find_servers()
    key = key or own_key()
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        rows = list(pool.map(lambda server: _row(server, key), servers))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    elif rows:
        console_output.stdout().print(_table(rows))
    else:
        typer.echo("No server of yours runs. Start one in the background with: tailrace serve --detach")


def own_key() -> str | None:
    """The key of this user's settings; None where there is none, or the settings have an error."""
    try:
        return resolve({}).settings.api_key
    except ConfigurationError:
        return None


def _row(server: ServerState, key: str | None) -> Row:
    running, answers = _running(server, key) if server.ready else (None, False)
    state: Literal["starting", "ready", "silent"] = "starting" if not server.ready else "ready" if answers else "silent"
    return Row(
        pid=server.supervisor,
        url=server.url,
        models=server.models,
        state=state,
        started=datetime.fromtimestamp(server.started, UTC).isoformat(timespec="seconds"),
        uptime=max(0, round(time.time() - server.started)),
        running=running,
        memory=_memory(server.processes),
        log=server.log,
    )


def _running(server: ServerState, key: str | None) -> tuple[int | None, bool]:
    """The generations that run, and whether the server answers."""
    try:
        # The server is this user's, on this machine: its certificate has another machine's name.
        status, body = ServerClient(server.url, key=key, verify=False, timeout=_TIMEOUT).get("/metrics")
    except Refused:
        return None, True
    except NoAnswer:
        return None, False
    found = _RUNNING.findall(body) if status == 200 else []
    return (sum(int(float(value)) for value in found) if found else None), True


def _memory(pids: tuple[int, ...], proc: Path = Path("/proc")) -> int | None:
    """Bytes in memory of the processes (``Pss`` of proc(5)); None where the system doesn't tell."""
    total, known = 0, False
    for pid in pids:
        try:
            text = (proc / f"{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue  # It has just ended.
        if found := re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE):
            total, known = total + int(found[1]) * 1024, True
    return total if known else None


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("PID", "URL", "MODELS", "STATE", "UPTIME", "RUNNING", "MEMORY", "RUNS"):
        right = heading in {"PID", "RUNNING", "MEMORY"}
        table.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=heading == "URL")
    for row in rows:
        names = ", ".join(row.models[:_MAX_NAMES])
        more = f" and {len(row.models) - _MAX_NAMES} more" if len(row.models) > _MAX_NAMES else ""
        table.add_row(
            str(row.pid),
            row.url,
            escape(harmless(f"{names}{more}")),
            row.state,
            _duration(row.uptime),
            "-" if row.running is None else str(row.running),
            "-" if row.memory is None else console_output.size(row.memory),
            "in the foreground" if row.log is None else "in the background",
        )
    return table


def _duration(seconds: int) -> str:
    """``42s``, ``5m``, ``3h 20m`` or ``2d 4h``."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if minutes < 1:
        return f"{seconds}s"
    if hours < 1:
        return f"{minutes}m"
    return f"{hours}h {minutes % 60}m" if days < 1 else f"{days}d {hours % 24}h"
