"""Reads ``/stats`` of a server over HTTP. Knows no terminal."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import msgspec

from tailrace.cli.terminal import harmless
from tailrace.diagnosis.catalogue import Finding
from tailrace.diagnosis.report import Stats
from tailrace.errors import ConfigurationError, TailraceError
from tailrace.machine.running_servers import ServerState, find_servers

#: Seconds to wait for an answer. The first one takes a second, because the server compares two samples.
_TIMEOUT = 10.0
#: Bytes of the largest answer that is read.
_MAX_BYTES = 4 << 20


class NoAnswer(TailraceError):
    """The server doesn't answer now; it may later."""


class Refused(TailraceError):
    """The server answers, but not with statistics; asking again is of no use."""


class StatsClient:
    """One server's statistics. ``url`` is its root, or the base URL that clients are given."""

    def __init__(self, url: str, *, key: str | None = None, verify: bool = True) -> None:
        """Raises ConfigurationError when ``url`` is no HTTP address."""
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url} is no address of a server: {error}") from error
        if parts.scheme not in {"http", "https"} or not self._host:
            raise ConfigurationError(f"{url} is no http:// or https:// address")
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._path = f"{parts.path.rstrip('/').removesuffix('/v1')}/stats"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._context = None
        if parts.scheme == "https":
            self._context = ssl.create_default_context()
            if not verify:
                self._context.check_hostname = False
                self._context.verify_mode = ssl.CERT_NONE

    def read(self) -> Stats:
        """The statistics now. Raises NoAnswer and Refused."""
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT)
            if self._context is None
            else http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT, context=self._context)
        )
        try:
            connection.request("GET", self._path, headers=self._headers)
            response = connection.getresponse()
            body = response.read(_MAX_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"{self.url}: its certificate isn't trusted ({error.verify_message}); see --insecure"
            ) from error
        except TimeoutError as error:
            raise NoAnswer(f"{self.url} doesn't answer: its HTTP process hangs, or the network does") from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{self.url} doesn't answer: {str(error) or type(error).__name__}") from error
        finally:
            connection.close()
        if response.status in {401, 403}:
            raise Refused(f"{self.url} wants another API key: set --key or TAILRACE_API_KEY")
        if response.status != 200:
            raise Refused(f"{self.url} has no statistics (status {response.status}): {_reason(body)}")
        try:
            return msgspec.convert(_harmless(msgspec.json.decode(body)), type=Stats)
        except msgspec.MsgspecError as error:
            raise Refused(f"{self.url} answers with other statistics than this tailrace knows: {error}") from error


def _reason(body: bytes) -> str:
    """The message of an error's body; a guess where it has none."""
    try:
        message = msgspec.json.decode(body)["error"]["message"]
    except (msgspec.MsgspecError, KeyError, TypeError):
        message = None
    return harmless(message) if isinstance(message, str) else "is it another server, or an older tailrace?"


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


def read_findings(servers: Sequence[ServerState], key: str | None) -> list[list[Finding] | str]:
    """The findings of each of the user's own servers, or why they aren't known. All are asked at the same time."""

    def read(server: ServerState) -> list[Finding] | str:
        try:
            # The server is this user's, on this machine: its certificate has another machine's name.
            return StatsClient(server.url, key=key, verify=False).read().findings
        except (NoAnswer, Refused) as error:
            return str(error)

    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        return list(pool.map(read, servers))
