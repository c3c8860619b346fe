"""The head with which a request goes to a replica.

The body's framing is always written anew, with a length, and headers of one hop are dropped: what a client writes there
can't make a replica see another request (RFC 9112, section 11.2). No client can send the cluster's headers.
"""

from __future__ import annotations

from collections.abc import Iterable

from tailrace.cluster_protocol.forwarding import CLIENT_HEADER
from tailrace.cluster_protocol.state import SECRET_HEADER

#: Headers of one hop (RFC 9110, section 7.6.1), and those that are written anew.
_DROPPED = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"expect",
        b"content-length",
        b"content-encoding",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-request-id",
        SECRET_HEADER.encode(),
        CLIENT_HEADER.encode(),
    }
)

Headers = Iterable[tuple[bytes, bytes]]


def forwarded_head(
    method: str,
    target: bytes,
    version: str,
    headers: Headers,
    *,
    client: str,
    scheme: str,
    request_id: str,
    secret: str,
    length: int | None,
    keep_alive: bool,
) -> bytes:
    """The head as bytes. ``headers``: the client's, names in lower case; ``length``: the body's, None without a body.

    With ``keep_alive`` False the replica closes its connection, and its response says so, as the client wants it.
    """
    headers = list(headers)
    dropped = _DROPPED | _named_by_connection(headers)
    fields = dict(headers)
    lines = [b"%b %b HTTP/%b\r\n" % (method.encode(), target, version.encode())]
    lines += [b"%b: %b\r\n" % header for header in headers if header[0] not in dropped]
    before = [value for name, value in headers if name == b"x-forwarded-for"]
    lines.append(b"x-forwarded-for: %b\r\n" % b", ".join([*before, client.encode("latin-1")]))
    lines.append(b"x-forwarded-proto: %b\r\n" % fields.get(b"x-forwarded-proto", scheme.encode()))
    if (host := fields.get(b"x-forwarded-host", fields.get(b"host"))) is not None:
        lines.append(b"x-forwarded-host: %b\r\n" % host)
    lines.append(b"x-request-id: %b\r\n" % request_id.encode())
    lines.append(b"%b: %b\r\n" % (CLIENT_HEADER.encode(), client.encode("latin-1")))
    lines.append(b"%b: %b\r\n" % (SECRET_HEADER.encode(), secret.encode()))
    if length is not None:
        lines.append(b"content-length: %d\r\n" % length)
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """The headers that the client's ``Connection`` names: they are for one hop, too."""
    return frozenset(
        option.strip().lower() for name, value in headers if name == b"connection" for option in value.split(b",")
    ) - {b"host", b"authorization", b"x-api-key"}
