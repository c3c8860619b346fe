"""The files of a built page, and the routes that serve them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import NotFound
from tailrace.server.page.built_page import BuiltPage
from tailrace.server.page.routes import routes

HTML = b"<!doctype html><title>built</title>"
SCRIPT = b"export const x = 1;" * 100
BROWSER = {"accept": "text/html,*/*;q=0.8"}


@pytest.fixture
def page(tmp_path: Path) -> BuiltPage:
    (tmp_path / "page").mkdir()
    (tmp_path / "index.html").write_bytes(HTML)
    (tmp_path / "secret.txt").write_bytes(b"not of the page")
    (tmp_path / "page" / "main-abc.js").write_bytes(SCRIPT)
    (tmp_path / "page" / "main-abc.js.gz").write_bytes(gzip.compress(SCRIPT))
    (tmp_path / "page" / "notes.txt").write_bytes(b"no type of the page's")
    found = BuiltPage.find(tmp_path)
    assert found is not None
    return found


async def programs(request: Request) -> Response:
    return Response(b"for programs")


def get(
    page: BuiltPage | None, headers: Mapping[str, str], name: str | None = None, *, enabled: bool = True
) -> Response:
    """The answer at ``/``, or to a request for a file."""
    root, asset = routes(page, programs, enabled=enabled)
    scope = {
        "type": "http",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        "path_params": {"name": name},
    }
    return asyncio.run(_answer((root if name is None else asset).handler, Request(scope)))


async def _answer(handler: object, request: Request) -> Response:
    response = await handler(request)  # type: ignore[operator]  # it is an endpoint's handler
    assert isinstance(response, Response)
    return response


def test_browsers_get_the_document_and_programs_what_they_had(page: BuiltPage) -> None:
    assert get(page, BROWSER).body == HTML
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        assert get(page, accept).body == b"for programs"
    assert get(page, BROWSER, enabled=False).body == b"for programs"


def test_the_document_is_looked_at_again_and_files_are_kept(page: BuiltPage) -> None:
    document, script = get(page, BROWSER), get(page, {}, "main-abc.js")
    assert document.headers["cache-control"] == "no-cache"
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    for response in (document, script):
        assert response.headers["x-content-type-options"] == "nosniff"
        again = get(page, {**BROWSER, "if-none-match": f'"other", W/{response.headers["etag"]}'}, None)
        assert (again.status_code == 304) is (response is document)
    assert get(page, {"if-none-match": script.headers["etag"]}, "main-abc.js").status_code == 304


def test_a_file_comes_compressed_where_the_client_accepts_it(page: BuiltPage) -> None:
    plain, packed = (get(page, {"accept-encoding": coding}, "main-abc.js") for coding in ("identity", "gzip, br"))
    assert plain.body == SCRIPT
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(bytes(packed.body)) == SCRIPT
    assert packed.headers["vary"] == "Accept-Encoding"
    assert packed.headers["etag"] != plain.headers["etag"]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "..%2fsecret.txt",
        "notes.txt",
        "main-abc.js.gz",
        "/etc/passwd",
        "",
        ".",
        "index.html",
        "x" * 999,
    ],
)
def test_nothing_but_the_pages_files_is_served(page: BuiltPage, name: str) -> None:
    with pytest.raises(NotFound):
        get(page, {}, name)


def test_where_nothing_is_built_the_page_says_how_to_mend_it(tmp_path: Path) -> None:
    assert BuiltPage.find(tmp_path) is None
    missing = get(None, BROWSER)
    assert missing.status_code == 200
    assert b"python3 scripts/setup_page.py" in missing.body
    assert missing.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in missing.headers["content-security-policy"]
    assert get(None, {}).body == b"for programs"
    with pytest.raises(NotFound):
        get(None, {}, "main-abc.js")
    with pytest.raises(NotFound):
        get(None, {}, "main-abc.js", enabled=False)
