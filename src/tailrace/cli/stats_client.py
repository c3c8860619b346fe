"""Reads ``/stats`` of a server over HTTP. Knows no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from tailrace.cli.server_client import NoAnswer, Refused, ServerClient, WrongKey, reason
from tailrace.cli.terminal import harmless
from tailrace.diagnosis.report import Stats
from tailrace.errors import ConfigurationError
from tailrace.machine.running_servers import ServerState, find_servers

_GUESS = "is it another server, or an older tailrace?"


class StatsClient:
    """One server's statistics. ``url`` is its root, or the base URL that clients are given."""

    def __init__(self, url: str, *, key: str | None = None, verify: bool = True) -> None:
        """Raises ConfigurationError when ``url`` is no HTTP address."""
        self._client = ServerClient(url, key=key, verify=verify)
        self.url = self._client.url

    def read(self) -> Stats:
        """The statistics now. Raises NoAnswer and Refused."""
        try:
            status, body = self._client.get("/stats")
        except WrongKey as error:
            raise Refused(f"{self.url} wants another API key: set --key or TAILRACE_API_KEY") from error
        if status != 200:
            raise Refused(f"{self.url} has no statistics (status {status}): {reason(body) or _GUESS}")
        try:
            return msgspec.convert(_harmless(msgspec.json.decode(body)), type=Stats)
        except msgspec.MsgspecError as error:
            raise Refused(f"{self.url} answers with other statistics than this tailrace knows: {error}") from error


def _harmless(value: object) -> object:
    """The value with texts that a terminal doesn't obey: names come from clients, and the server may not be ours."""
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, list):
        return [_harmless(each) for each in value]
    return {name: _harmless(each) for name, each in value.items()} if isinstance(value, dict) else value


def own_server() -> str:
    """The URL of the only server of this user that runs, or of the default port.

    Raises ConfigurationError where there are several.
    """
    servers = find_servers()
    if len(servers) > 1:
        ports = ", ".join(str(server.port) for server in servers)
        raise ConfigurationError(f"several servers of yours run, on ports {ports}: choose one with --url")
    return servers[0].url if servers else "http://127.0.0.1:8000"


def read_stats(servers: Sequence[ServerState], key: str | None) -> list[Stats | str]:
    """The statistics of each of the user's own servers, or why they aren't known. All are asked at the same time."""

    def read(server: ServerState) -> Stats | str:
        try:
            # The server is this user's, on this machine: its certificate has another machine's name.
            return StatsClient(server.url, key=key, verify=False).read()
        except (NoAnswer, Refused) as error:
            return str(error)

    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        return list(pool.map(read, servers))
