"""HTTP requests of the commands to a server, which may be another program than tailrace. Knows no terminal."""

from __future__ import annotations

import http.client
import ssl
from urllib.parse import urlsplit

import msgspec

from tailrace.cli.terminal import harmless
from tailrace.errors import ConfigurationError, TailraceError

#: Seconds to wait for an answer. The first one of ``/stats`` takes a second, because the server compares two samples.
_TIMEOUT = 10.0
#: Bytes of the largest answer that is read.
_MAX_BYTES = 4 << 20
#: Characters of a server's message that are shown.
_MAX_REASON = 2000


class NoAnswer(TailraceError):
    """The server doesn't answer now; it may later."""


class Refused(TailraceError):
    """The server answers, but not with what was asked for; asking again is of no use."""


class WrongKey(Refused):
    """The server wants another API key."""


class ServerClient:
    """One server. ``url`` is its root, or the base URL that clients are given, which ends with ``/v1``."""

    def __init__(self, url: str, *, key: str | None = None, verify: bool = True, timeout: float = _TIMEOUT) -> None:
        """``timeout``: seconds to wait for the connection, and for each part of an answer.

        Raises ConfigurationError when ``url`` is no HTTP address.
        """
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url} is no address of a server: {error}") from error
        if parts.scheme not in {"http", "https"} or not self._host:
            raise ConfigurationError(f"{url} is no http:// or https:// address")
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        #: The root with its path, to which the routes' paths are added.
        self.root = f"{self.url}{self._prefix}"
        self.key = key
        self._timeout = timeout
        self._context = None
        if parts.scheme == "https":
            self._context = ssl.create_default_context()
            if not verify:
                self._context.check_hostname = False
                self._context.verify_mode = ssl.CERT_NONE

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET. Raises NoAnswer, and WrongKey on 401 and 403."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: object) -> tuple[int, bytes]:
        """Status and body of a POST of JSON; raises as ``get`` does."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            response = self.request(connection, method, path, body)
            return response.status, response.read(_MAX_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self.no_answer(error) from error
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        """A connection for one request, which isn't opened yet."""
        timeout = self._timeout
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)

    def request(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: object = None
    ) -> http.client.HTTPResponse:
        """The beginning of the response; raises as ``get`` does."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        data = None
        if body is not None:
            data = msgspec.json.encode(body)
            headers["content-type"] = "application/json"
        try:
            connection.request(method, f"{self._prefix}{path}", body=data, headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self.no_answer(error) from error
        if response.status in {401, 403}:
            which = "another" if self.key else "an"
            raise WrongKey(f"{self.url} wants {which} API key: set TAILRACE_API_KEY")
        return response

    def no_answer(self, error: Exception) -> TailraceError:
        """The error of a command for one of a connection."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return Refused(f"{self.url}: its certificate isn't trusted ({error.verify_message}); see --insecure")
        if isinstance(error, TimeoutError):
            return NoAnswer(f"{self.url} doesn't answer: its HTTP process hangs, or the network does")
        return NoAnswer(f"{self.url} doesn't answer: {str(error) or type(error).__name__}")


def reason(body: bytes) -> str:
    """The message of an error's body, as a terminal may show it; empty where it has none."""
    try:
        error = msgspec.json.decode(body)["error"]
        message = error if isinstance(error, str) else error["message"]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return ""
    return harmless(message)[:_MAX_REASON] if isinstance(message, str) else ""
