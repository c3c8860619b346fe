"""``tailrace top``: what limits a server's throughput now, live in a terminal, once, or as JSON."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live

from tailrace.cli import console_output
from tailrace.cli.server_client import NoAnswer
from tailrace.cli.stats_client import StatsClient, own_server
from tailrace.cli.top_screen import screen
from tailrace.diagnosis.report import Stats

#: Columns where standard output isn't a terminal.
_PIPE_WIDTH = 100


def top(
    url: Annotated[
        str | None, typer.Option(help="The server: its root, or the base URL of clients. [default: yours that runs]")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="TAILRACE_API_KEY", help="The server's API key.")] = None,
    interval: Annotated[float, typer.Option(min=1.0, max=3600.0, help="Seconds between two readings.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a screen.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Don't verify the server's certificate.")] = False,
) -> None:
    """Show what limits a server now, in words, with its requests, latencies, steps and processes.

    Ends with q or Ctrl-C. Without a terminal it writes one screen after the other.
    """
    # A server of one's own on this machine has a certificate for another name than 127.0.0.1.
    client = StatsClient(url or own_server(), key=key or None, verify=url is not None and not insecure)
    try:
        if as_json:
            _write_json(client, interval, once=once)
        elif once:
            _print(_console(), client.read(), client.url)
        elif sys.stdout.isatty():
            _live(client, interval)
        else:
            _write_screens(client, interval)
    except BrokenPipeError:
        # The reader has seen enough. Python would complain about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass


def _write_json(client: StatsClient, interval: float, *, once: bool) -> None:
    while True:
        data = msgspec.json.encode(client.read())
        print(msgspec.json.format(data, indent=2).decode() if once else data.decode(), flush=True)
        if once:
            return
        time.sleep(interval)


def _write_screens(client: StatsClient, interval: float) -> None:
    while True:
        _print(_console(), client.read(), client.url)
        print(flush=True)
        time.sleep(interval)


def _console() -> Console:
    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _print(console: Console, stats: Stats, url: str) -> None:
    # A console that writes itself ends the program with status 1 where the reader of a pipe has gone.
    with console.capture() as captured:
        console.print(screen(stats, url=url, width=console.width))
    lines = captured.get().splitlines()
    print("\n".join(lines if console.is_terminal else map(str.rstrip, lines)), flush=True)


def _live(client: StatsClient, interval: float) -> None:
    console, stats, problem = console_output.stdout(), None, ""
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        shown = partial(screen, url=client.url)
        live.update(shown(None, width=console.width), refresh=True)
        while True:
            try:
                stats, problem = client.read(), ""
            except NoAnswer as error:
                problem = str(error)
            live.update(shown(stats, width=console.width, height=console.height, problem=problem), refresh=True)
            if pressed(interval) == "q":
                return


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """While inside, keys come without Enter and aren't shown. Gives a function that waits for one for some seconds; it
    returns an empty text where none came.
    """
    if not sys.stdin.isatty():
        yield _sleep
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def wait(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 64).decode("utf-8", "replace")[:1] if ready else ""

    try:
        tty.setcbreak(descriptor)
        yield wait
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
