"""Every route of the app needs a key where there are keys, and checks pages where there are none; new ones too."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
from starlette.types import ASGIApp

from tailrace.server.app import endpoints, make_app
from tailrace.server.app_state import AppState
from tailrace.server.endpoint import Endpoint
from tailrace.server.keys.keys_file import KeyRecord, KeysFile, new_key, now
from tailrace.server.middleware import PUBLIC
from tailrace.server.page.routes import ASSETS
from tailrace.settings import Settings

#: Decided one by one: they say that the server lives, and nothing else.
WITHOUT_A_KEY = {"/", "/health", "/health/live", "/health/ready"}


def request(app: ASGIApp, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the app's answer to a request without a body."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]  # ASGI's own types are looser
    start, *bodies = sent
    head = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], head, b"".join(body["body"] for body in bodies)


def state(folder: Path, *, keys: bool) -> AppState:
    file = folder / "keys.json"
    if keys:
        _, record = new_key(KeyRecord(name="alice", id="", sha256="", created=now()))
        KeysFile(file).add(record)
    return AppState.of_one(Settings(keys_file=str(file), responses_mb=0, engine_wait_seconds=0), "m")


def known(folder: Path) -> list[Endpoint]:
    return endpoints(state(folder, keys=False))


def test_every_route_but_the_decided_ones_needs_a_key(tmp_path: Path) -> None:
    assert PUBLIC == WITHOUT_A_KEY
    app = make_app(state(tmp_path, keys=True))
    seen = 0
    for endpoint in known(tmp_path / "open"):
        path = re.sub(r"\{[^}]*\}", "x", endpoint.path)
        for shown in (path, f"/v1{path}"):
            for given in ({}, {"authorization": "Bearer tr-wrong"}, {"x-api-key": ""}):
                headers = {"host": "localhost", **({endpoint.header: "x"} if endpoint.header else {}), **given}
                status, head, body = request(app, endpoint.method, shown, headers)
                if path in WITHOUT_A_KEY or path.startswith(ASSETS):
                    assert status != 401, path
                    assert b'"m"' not in body, "the model's name is for those with a key"
                    continue
                seen += 1
                assert status == 401, (endpoint.method, shown)
                assert head["www-authenticate"] == "Bearer"
                if endpoint.method != "HEAD":
                    message = msgspec.json.decode(body)["error"]
                    assert "key" in (message if isinstance(message, str) else message["message"])
    assert seen > 200


def test_unknown_routes_need_a_key_too(tmp_path: Path) -> None:
    app = make_app(state(tmp_path, keys=True))
    for path in ("/nothing", "/docs", "/debug", "/api/nothing", "/admin", "/health/other"):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"):
            assert request(app, method, path, {"host": "localhost"})[0] == 401, (method, path)


def test_every_route_is_closed_to_pages_of_other_sites(tmp_path: Path) -> None:
    app = make_app(state(tmp_path, keys=False))
    for endpoint in known(tmp_path):
        path = re.sub(r"\{[^}]*\}", "x", endpoint.path)
        extra = {endpoint.header: "x"} if endpoint.header else {}
        rebound = request(app, endpoint.method, path, {"host": "evil.example", **extra})
        assert rebound[0] == 403, path
        if endpoint.method not in ("GET", "HEAD"):
            foreign = request(
                app, endpoint.method, path, {"host": "localhost", "origin": "https://evil.example", **extra}
            )
            assert foreign[0] == 403, path
