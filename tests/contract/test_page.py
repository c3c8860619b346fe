"""``GET /`` on the wire: the page for browsers, and for programs what was always there."""

from __future__ import annotations

import re

import pytest

from openai_wire import Connection, Reply, ask
from servers import ServerProcess
from tailrace.server.page.built_page import FOLDER

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8", "accept-encoding": "gzip, deflate, br"}
MAX_PAGE = 300_000


def is_built() -> bool:
    """Whether set-up has built the page here: without a network it can't, and the server says so at ``/``."""
    return (FOLDER / "index.html").is_file()


@pytest.mark.parametrize("headers", [{}, {"accept": "*/*"}, {"accept": "application/json"}, {"user-agent": "Go-http"}])
def test_programs_get_what_they_always_got(scripted: ServerProcess, headers: dict[str, str]) -> None:
    reply = ask(scripted.port, "GET", "/", headers=headers)
    assert reply.status == 200
    assert reply.body == b'{"name":"tailrace","status":"ok","model":"fake"}'
    names = [name for name, _ in reply.headers if name not in ("date", "x-request-id")]
    assert names == ["content-length", "content-type", "vary"]
    head = ask(scripted.port, "HEAD", "/", headers=headers)
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-length") == str(len(reply.body))
    assert head.header("content-type") == "application/json"


def test_browsers_get_html_under_a_strict_policy(scripted: ServerProcess) -> None:
    for path in ("/", "/v1", "/v1/", "//"):
        reply = ask(scripted.port, "GET", path, headers=BROWSER)
        assert reply.status == 200
        assert reply.header("content-type") == "text/html; charset=utf-8"
        parts = (part.partition(" ") for part in policy_of(reply).split("; "))
        policy = {name: values for name, _, values in parts}
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in policy_of(reply)
        assert reply.header("x-content-type-options") == "nosniff"
        assert reply.header("referrer-policy") == "no-referrer"
    head = ask(scripted.port, "HEAD", "/", headers=BROWSER)
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-type") == "text/html; charset=utf-8"


def policy_of(reply: Reply) -> str:
    """The content security policy of a response."""
    return dict(reply.headers)["content-security-policy"]


def test_the_pages_files_are_public_and_its_data_is_not(keyed: ServerProcess) -> None:
    document = ask(keyed.port, "GET", "/", headers={"accept": "text/html"})
    assert document.status == 200
    files = re.findall(r'(?:src|href)="\./(page/[^"]+)"', document.body.decode())
    assert bool(files) is is_built()
    for file in files:
        reply = ask(keyed.port, "GET", f"/{file}")
        assert reply.status == 200, file
        assert reply.header("cache-control") == "public, max-age=31536000, immutable"
        tag = reply.header("etag")
        assert tag is not None
        with Connection(keyed.port) as connection:
            connection.request("GET", f"/{file}", headers={"if-none-match": tag})
            known = connection.read_head()
            assert known.status == 304
            # Nothing follows: the connection takes another request.
            connection.request("GET", "/health/live")
            assert connection.read().status == 200
    assert ask(keyed.port, "GET", "/page/other.js").status == 404
    assert ask(keyed.port, "GET", "/v1/models").status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/page/../../settings.py",
        "/page/..%2f..%2fsettings.py",
        "/page/%2e%2e/index.html",
        "/page//etc/passwd",
        "/page/index.html",
        "/page/",
        "/page",
        "/page/sources",
        "/page/x%00.js",
    ],
)
def test_nothing_else_is_served(scripted: ServerProcess, path: str) -> None:
    reply = ask(scripted.port, "GET", path, headers=BROWSER)
    assert reply.status == 404
    assert reply.error()["type"] == "invalid_request_error"


def test_pages_of_other_names_get_nothing(scripted: ServerProcess) -> None:
    assert ask(scripted.port, "GET", "/", headers={**BROWSER, "host": "evil.example"}).status == 403


def test_the_built_page_is_small() -> None:
    """What a browser loads in all, in the form that every browser accepts."""
    files = [path for path in FOLDER.rglob("*") if path.suffix in (".html", ".js", ".css", ".svg")]
    assert bool(files) is is_built()
    packed = [path.with_name(path.name + ".gz") for path in files]
    assert (
        sum((one if one.exists() else path).stat().st_size for one, path in zip(packed, files, strict=True)) < MAX_PAGE
    )
