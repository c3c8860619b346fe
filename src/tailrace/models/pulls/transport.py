"""Makes the requests of a pull, and follows redirects by rules of its own. It knows neither protocol.

The rules: a secret header goes to the server that it is meant for and to no other; a redirect never leads from https to
http, and never nearer than the server that was named (``remote_address``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from urllib.request import getproxies, proxy_bypass

import httpx2
import msgspec

from tailrace import __version__
from tailrace.errors import PullFailed
from tailrace.models.pulls.remote_address import Reach, Resolve, nearest, nearest_by_name, reach_of, resolve
from tailrace.models.pulls.retries import Interrupted, Retries

#: Redirects of one request.
_MAX_REDIRECTS = 10
#: Seconds for a connection, and seconds without a byte after which a connection counts as cut.
_CONNECT_SECONDS = 20.0
_SILENCE_SECONDS = 30.0
#: Statuses that may pass: too slow, too many requests, and errors of the server or of one before it.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

USER_AGENT = f"tailrace/{__version__}"


class Answer(msgspec.Struct, frozen=True):
    """A whole response of limited size. ``headers`` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Opened(msgspec.Struct, frozen=True):
    """A response whose body is still to be read, and the headers of the redirects that led to it."""

    response: httpx2.Response
    hops: tuple[Mapping[str, str], ...]

    def header(self, name: str) -> str | None:
        """The header of the first response that has it."""
        for headers in (*self.hops, self.response.headers):
            if (value := headers.get(name)) is not None:
                return value
        return None


class Transport:
    """One client for all requests of a pull. Proxies and certificates are those of the environment."""

    def __init__(
        self,
        *,
        resolve: Resolve = resolve,
        silence_seconds: float = _SILENCE_SECONDS,
        retries: Callable[[Callable[[str], None]], Retries] = Retries,
    ) -> None:
        """``retries`` makes the account of failures of a request, from what reports pauses."""
        self._resolve = resolve
        self._retries = retries
        timeout = httpx2.Timeout(silence_seconds, connect=_CONNECT_SECONDS)
        try:
            self._client = httpx2.Client(follow_redirects=False, timeout=timeout)
        except (ValueError, httpx2.InvalidURL) as error:
            raise PullFailed(
                "the proxy that the environment names can't be used: HTTPS_PROXY and ALL_PROXY need a URL such as "
                "http://host:port",
                reason="network",
            ) from error

    def retries(self, report: Callable[[str], None]) -> Retries:
        """An account of failures, for requests that the caller repeats."""
        return self._retries(report)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def read(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        limit: int,
        secret: Mapping[str, str] | None = None,
        report: Callable[[str], None],
        named_by: str | None = None,
    ) -> Answer:
        """A whole response, of any status but the passing ones, which are tried again. Raises PullFailed, for a body of
        more than ``limit`` bytes too.

        ``named_by``: the server that has named this URL, which then counts as a redirect of it.
        """
        retries = self._retries(report)
        while True:
            try:
                if named_by is not None and self._reach(_parse(url)) > self._reach(_parse(named_by)):
                    raise _leads_inside(host_of(named_by), host_of(url))
                with self.open(url, headers, secret=secret) as opened:
                    body = bytearray()
                    for chunk in pieces(opened.response):
                        body += chunk
                        if len(body) > limit:
                            raise PullFailed(f"{host_of(url)} sends more than {limit:,} bytes", reason="damaged")
                    response = opened.response
                    return Answer(response.status_code, dict(response.headers.items()), bytes(body))
            except Interrupted as why:
                retries.pause(why, progressed=False)

    @contextlib.contextmanager
    def open(
        self, url: str, headers: Mapping[str, str], *, secret: Mapping[str, str] | None = None
    ) -> Iterator[Opened]:
        """The response to a GET, after redirects. ``secret``: headers for the server of ``url`` alone.

        Raises Interrupted for a status that may pass and when there is no response, and PullFailed for a redirect that
        isn't followed.
        """
        target = _parse(url)
        floor = self._reach(target)
        sent = {"user-agent": USER_AGENT, "accept-encoding": "identity", **headers, **(secret or {})}
        hops: list[Mapping[str, str]] = []
        seen = {str(target)}
        while True:
            response = self._send(target, sent)
            try:
                if hops:
                    self._check_peer(target, response, floor)
                location = response.headers.get("location")
                if response.status_code == 407:
                    raise PullFailed(
                        "the proxy wants a login: set HTTPS_PROXY to http://user:password@host:port", reason="network"
                    )
                if response.status_code not in (301, 302, 303, 307, 308) or location is None:
                    if response.status_code in _PASSING:
                        raise _passing(target, response)
                    yield Opened(response, tuple(hops))
                    return
                hops.append(response.headers)
            finally:
                response.close()
            following = self._follow(target, location, floor)
            if str(following) in seen or len(hops) > _MAX_REDIRECTS:
                raise PullFailed(f"{host_of(url)} redirects without an end", reason="untrusted")
            seen.add(str(following))
            if _origin(following) != _origin(target):
                sent = {name: value for name, value in sent.items() if name not in (secret or {})}
            target = following

    def _send(self, target: httpx2.URL, headers: Mapping[str, str]) -> httpx2.Response:
        try:
            # The client's cookies of one server are of no use to another.
            self._client.cookies.clear()
            return self._client.send(self._client.build_request("GET", target, headers=dict(headers)), stream=True)
        except httpx2.ProxyError as error:
            raise Interrupted(f"the proxy makes no connection to {target.host}: {error}", answered=False) from error
        except httpx2.ConnectTimeout as error:
            raise Interrupted(f"{target.host} doesn't answer", answered=False) from error
        except httpx2.ConnectError as error:
            raise Interrupted(f"{target.host} can't be reached: {error}", answered=False) from error
        except httpx2.HTTPError as error:
            raise broken(target.host, error) from error

    def _check_peer(self, target: httpx2.URL, response: httpx2.Response, floor: Reach) -> None:
        """Raise PullFailed where the name had another address for the connection than for the check before it."""
        stream = response.extensions.get("network_stream")
        peer = None if stream is None or _has_proxy(target) else stream.get_extra_info("server_addr")
        if peer and reach_of(str(peer[0])) > floor:
            raise _leads_inside(target.host, target.host)

    def _reach(self, target: httpx2.URL) -> Reach:
        if _has_proxy(target):
            return nearest_by_name(target.host)
        try:
            return nearest(target.host, self._resolve)
        except OSError:
            return Reach.INTERNET  # The request will say that there is no such name.

    def _follow(self, target: httpx2.URL, location: str, floor: Reach) -> httpx2.URL:
        """The URL that a redirect leads to. Raises PullFailed."""
        try:
            following = target.join(location).copy_with(username=None, password=None, fragment=None)
        except (httpx2.InvalidURL, ValueError, TypeError) as error:
            raise PullFailed(f"{target.host} redirects to what is no URL", reason="untrusted") from error
        if following.scheme not in ("http", "https") or not following.host:
            raise PullFailed(f"{target.host} redirects to what isn't on the web", reason="untrusted")
        if target.scheme == "https" and following.scheme == "http":
            raise PullFailed(
                f"{target.host} redirects from https to http ({following.host}), which others can read and change",
                reason="untrusted",
            )
        if following.host != target.host and self._reach(following) > floor:
            raise _leads_inside(target.host, following.host)
        return following


def pieces(response: httpx2.Response) -> Iterator[bytes]:
    """The body as it arrives. Raises Interrupted where it breaks off, and PullFailed where it is compressed."""
    check_encoding(response)
    try:
        yield from response.iter_raw()
    except httpx2.HTTPError as error:
        raise broken(response.request.url.host, error) from error


def check_encoding(response: httpx2.Response) -> None:
    """Raise PullFailed for a body that is compressed, which no request has asked for."""
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        host = response.request.url.host
        raise PullFailed(f"{host} sends a compressed body, which wasn't wanted", reason="damaged")


def broken(host: str, error: httpx2.HTTPError) -> Interrupted:
    """A connection that has ended early, in words."""
    if isinstance(error, httpx2.TimeoutException):
        return Interrupted(f"{host} has fallen silent")
    return Interrupted(f"the connection to {host} has broken off")


def host_of(url: str) -> str:
    """What a message shows of a URL: the rest may have a signature in it."""
    return _parse(url).host


def shown_url(url: str) -> str:
    """The URL without a user and a password in it."""
    return str(_parse(url).copy_with(username=None, password=None)).rstrip("/")


def is_same_server(url: httpx2.URL, other: str) -> bool:
    """Whether two URLs are of one server: scheme, host and port."""
    return _origin(url) == _origin(_parse(other))


def _parse(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise _no_address(url) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _no_address(url)
    return parsed


def _no_address(url: str) -> PullFailed:
    """The failure for a variable with a wrong value. The URL's beginning is enough to find it, and has no password."""
    return PullFailed(
        f"{url.rpartition('@')[2][:60]!r} isn't a URL of a server: HF_ENDPOINT and TAILRACE_OLLAMA_REGISTRY begin with "
        "https://",
        reason="network",
    )


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _has_proxy(target: httpx2.URL) -> bool:
    proxies = getproxies()
    return bool(proxies.get(target.scheme) or proxies.get("all")) and not proxy_bypass(target.host)


def _leads_inside(host: str, to: str) -> PullFailed:
    return PullFailed(
        f"{host} redirects to {to}, an address of this machine or its network. A mirror in this network is named by "
        "HF_ENDPOINT or TAILRACE_OLLAMA_REGISTRY",
        reason="untrusted",
    )


def _passing(target: httpx2.URL, response: httpx2.Response) -> Interrupted:
    """The failure for a status that may pass."""
    status = response.status_code
    after = _retry_after(response.headers.get("retry-after"))
    if status == 429:
        return Interrupted(f"{target.host} wants fewer requests (429)", reason="busy", retry_after=after)
    return Interrupted(f"{target.host} has a failure of its own ({status})", retry_after=after)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` (RFC 9110, section 10.2.3): a number, or a date."""
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
