"""``GET /`` and the page's files. Both are public, because they hold no data of this server."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import NotFound
from tailrace.server.endpoint import Endpoint, Handler
from tailrace.server.page.built_page import BuiltPage, PageFile
from tailrace.server.page.missing_page import MISSING_PAGE
from tailrace.server.page.negotiation import best_encoding, wants_html

#: Where the page's files are. The page names them relative to itself, so that it works behind a prefix.
ASSETS = "/page/"

#: The page loads nothing from elsewhere and has no inline code. A reply that a model wrote is hostile text in it, so
#: HTML gets into it through the one named policy alone (``web/src/markdown/safe_html.ts``).
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
_SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_DOCUMENT = {
    **_SAFE,
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
#: A file's name has the hash of its content.
_ASSET = {**_SAFE, "cache-control": "public, max-age=31536000, immutable"}


def routes(page: BuiltPage | None, other: Handler, *, enabled: bool) -> list[Endpoint]:
    """The routes. ``other`` answers clients at ``/`` that are no browsers, and all of them unless ``enabled``."""

    async def root(request: Request) -> Response:
        if not (enabled and wants_html(request.headers.get("accept"))):
            return await other(request)
        if page is None:
            head = {**_DOCUMENT, "vary": "Accept"}
            return Response(MISSING_PAGE, headers=head, media_type="text/html")
        return _file_response(request, page.document, _DOCUMENT, "Accept, Accept-Encoding")

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        file = page.assets.get(name) if page is not None and enabled else None
        if file is None:
            raise NotFound("The page has no such file. Reload the page: the server may have another version of it now.")
        return _file_response(request, file, _ASSET, "Accept-Encoding")

    return [
        Endpoint("GET", "/", root, "What this is; the page for browsers", statuses=frozenset(), hidden=True),
        Endpoint("GET", ASSETS + "{name}", asset, "A file of the page", statuses=frozenset({404}), hidden=True),
    ]


def _file_response(request: Request, file: PageFile, head: Mapping[str, str], vary: str) -> Response:
    """The file in the best form that the client accepts, or 304 where the client has it (RFC 9110, 13.1.2)."""
    encoding = best_encoding(request.headers.get("accept-encoding"), file.encodings())
    body, tag = file.body(encoding)
    headers = {**head, "etag": tag, "vary": vary}
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    headers["content-type"] = file.media_type
    if encoding is not None:
        headers["content-encoding"] = encoding
    return Response(body, headers=headers)
