"""Servers for pulls: a hub, an Ollama registry, and the storage that both redirect to. They do what a test tells them.

They listen on 127.0.0.1. The storage has a port of its own, so a redirect to it leads to another server: it must never
receive a token.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_CHUNK = 64 * 1024
COMMIT = "c0ffee" + "0" * 34
OTHER_COMMIT = "decade" + "0" * 34


class Content:
    """A file that a server has. ``size`` zeros are sent without being stored."""

    def __init__(self, data: bytes | None = None, *, zeros: int = 0, sha256: str | None = None) -> None:
        self.data = data
        self.size = zeros if data is None else len(data)
        self.sha256 = sha256 or hashlib.sha256(data or b"").hexdigest()

    def part(self, start: int, size: int) -> bytes:
        """``size`` bytes from ``start`` on."""
        return bytes(size) if self.data is None else self.data[start : start + size]


@dataclass
class Behaviour:
    """What the storage does to every file, besides sending it. Each is tried in the order of the fields."""

    status: list[int] = field(default_factory=list)  #: of the next responses, instead of the file
    headers: dict[str, str] = field(default_factory=dict)  #: of those responses
    cut_after: list[int] = field(default_factory=list)  #: bytes of the next bodies, after which the connection ends
    ranges: bool = True
    wrong_range: bool = False  #: a 206 that begins at 0
    etag: str | None = None  #: of all files; by default each has its own
    replaced: dict[str, bytes] = field(default_factory=dict)  #: by digest: other bytes than those that are announced
    html: bool = False  #: a web page, as a network before a login sends
    endless: bool = False  #: the body goes on behind the file, without a length
    encoding: str | None = None
    pause: Callable[[int], None] = lambda sent: None  #: called before each chunk, with the bytes so far
    redirect: Callable[[str], str] | None = None  #: where requests are sent on, by their path
    silent: bool = False  #: no response ever


@dataclass
class Seen:
    """A request, as a server has received it."""

    path: str
    headers: dict[str, str]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Silent: pytest shows failures."""

    def do_GET(self) -> None:
        server = self.server
        server.seen.append(Seen(self.path, {name.lower(): value for name, value in self.headers.items()}))
        try:
            server.answer(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """A whole response."""
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[Seen] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, handler: _Handler) -> None:
        raise NotImplementedError

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no news."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()


class Storage(_Server):
    """Files by their digests."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, Content] = {}
        self.behaviour = Behaviour()
        self.sent = 0  #: bytes of bodies

    def url_of(self, digest: str) -> str:
        """Where a file is, with a signature as storages have it."""
        return f"{self.url}/{digest}?Signature=secret-signature"

    def answer(self, handler: _Handler) -> None:
        send_file(self, handler, urlsplit(handler.path).path.strip("/"))


def send_file(server: Storage, handler: _Handler, digest: str) -> None:
    """Send the file with this digest, in the storage's way."""
    does, content = server.behaviour, server.files.get(digest)
    if does.silent:
        time.sleep(3600)
    if does.redirect is not None:
        handler.reply(302, headers={"Location": does.redirect(handler.path)})
        return
    if does.status:
        handler.reply(does.status.pop(0), b"no", does.headers)
        return
    if does.html:
        handler.reply(200, b"<html>Please log in</html>", {"Content-Type": "text/html; charset=utf-8"})
        return
    if content is None:
        handler.reply(404, b"no such file")
        return
    if digest in does.replaced:
        content = Content(does.replaced[digest])
    etag = does.etag or f'"{digest[:32]}"'
    start, wanted = 0, handler.headers.get("range")
    if wanted is not None and does.ranges and handler.headers.get("if-range", etag) == etag:
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        if start >= content.size:
            handler.reply(416, headers={"Content-Range": f"bytes */{content.size}"})
            return
        start = 0 if does.wrong_range else start
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{content.size - 1}/{content.size}")
    else:
        handler.send_response(200)
    handler.send_header("ETag", etag)
    handler.send_header("Content-Type", "application/octet-stream")
    if does.encoding:
        handler.send_header("Content-Encoding", does.encoding)
    if does.endless:
        handler.send_header("Connection", "close")
        handler.close_connection = True
    else:
        handler.send_header("Content-Length", str(content.size - start))
    handler.end_headers()
    _send_body(server, handler, content, start, does.cut_after.pop(0) if does.cut_after else None)


def _send_body(server: Storage, handler: _Handler, content: Content, start: int, cut: int | None) -> None:
    does, at = server.behaviour, start
    while at < content.size or does.endless:
        size = _CHUNK if does.endless else min(_CHUNK, content.size - at)
        if cut is not None:
            size = min(size, start + cut - at)
            if size <= 0:
                handler.wfile.flush()
                handler.close_connection = True
                handler.connection.close()
                return
        does.pause(at)
        chunk = content.part(at, size)
        handler.wfile.write(chunk if chunk else bytes(size))
        at += size
        server.sent += size


class HubServer(_Server):
    """The hub's API and its ``resolve`` addresses, for one repository. https://huggingface.co/docs/hub/api"""

    def __init__(self, storage: Storage, repo_id: str = "org/repo") -> None:
        super().__init__()
        self.storage = storage
        self.repo_id = repo_id
        self.commit = COMMIT
        self.files: dict[str, Content] = {}
        self.small: set[str] = set()  #: names of files that are in git, without LFS
        self.extra: list[dict[str, Any]] = []  #: further entries of the listing, as they are
        self.token: str | None = None  #: the only one that may read
        self.gated = False
        self.status: list[int] = []  #: of the next responses of the API
        self.headers: dict[str, str] = {}
        self.html = False
        self.listing_body: bytes | None = None  #: instead of the listing
        self.linked: dict[str, str] = {}  #: another ``X-Linked-Etag`` than the file's, by name

    def add(self, name: str, content: Content | bytes, *, lfs: bool = True) -> Content:
        """Put a file into the repository."""
        content = Content(content) if isinstance(content, bytes) else content
        self.files[name] = self.storage.files[content.sha256] = content
        if not lfs:
            self.small.add(name)
        return content

    def answer(self, handler: _Handler) -> None:
        url = urlsplit(handler.path)
        path = unquote(url.path)
        if self.status:
            handler.reply(self.status.pop(0), b"no", self.headers)
            return
        if self.html:
            handler.reply(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
            return
        given = (handler.headers.get("authorization") or "").removeprefix("Bearer ") or None
        if path.startswith("/api/models/"):
            self._api(handler, path.removeprefix("/api/models/"), given)
        else:
            self._resolve(handler, path.strip("/"), given)

    def _api(self, handler: _Handler, path: str, given: str | None) -> None:
        repo_id, _, revision = path.partition("/revision/")
        if given is not None and given != self.token and self.token is not None:
            message = {"X-Error-Message": "Invalid credentials in Authorization header"}
            handler.reply_json({"error": "Invalid credentials"}, 401, message)
        elif repo_id != self.repo_id or (self.token is not None and not self.gated and given != self.token):
            missing = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            handler.reply_json({"error": "Repository not found"}, 404 if given else 401, missing)
        elif revision not in ("", "main", self.commit):
            handler.reply_json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [self._entry(name, content) for name, content in self.files.items()] + self.extra
            listing = {"id": repo_id, "sha": self.commit, "gated": self.gated, "siblings": siblings}
            handler.reply(200, self.listing_body or json.dumps(listing).encode())

    def _entry(self, name: str, content: Content) -> dict[str, Any]:
        if name in self.small:
            return {"rfilename": name, "size": content.size, "blobId": git_digest(content)}
        lfs = {"sha256": content.sha256, "size": content.size, "pointerSize": 134}
        return {"rfilename": name, "size": content.size, "blobId": "a" * 40, "lfs": lfs}

    def _resolve(self, handler: _Handler, path: str, given: str | None) -> None:
        repo_id, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        content = self.files.get(name)
        if repo_id != self.repo_id or content is None or revision not in ("main", self.commit):
            handler.reply(404, b"no such file", {"X-Error-Code": "EntryNotFound"})
        elif self.gated and (self.token is None or given != self.token):
            gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted."}
            handler.reply(403 if given else 401, b"gated", gated)
        elif name in self.small:
            handler.reply(200, content.part(0, content.size), {"ETag": f'"{git_digest(content)}"'})
        else:
            headers = {
                "Location": self.storage.url_of(content.sha256),
                "X-Linked-Etag": f'"{self.linked.get(name, content.sha256)}"',
                "X-Linked-Size": str(content.size),
                "X-Repo-Commit": self.commit,
            }
            handler.reply(302, headers=headers)


class OllamaRegistryServer(_Server):
    """Ollama's registry, with one model. ``token``: the one that it gives and wants; None wants none."""

    def __init__(self, storage: Storage, name: str = "library/tiny", tag: str = "1b") -> None:
        super().__init__()
        self.storage = storage
        self.name = name
        self.tag = tag
        self.token: str | None = None
        self.realm: str | None = None  #: where tokens are given, if not here
        self.refuses_tokens = False  #: as for a private model
        self.layers: list[dict[str, Any]] = []
        self.config: dict[str, Any] | None = None
        self.manifest_body: bytes | None = None  #: instead of the manifest
        self.tokens_given = 0

    def add(self, kind: str, content: Content | bytes) -> Content:
        """Put a layer into the model."""
        content = Content(content) if isinstance(content, bytes) else content
        self.storage.files[content.sha256] = content
        media = f"application/vnd.ollama.image.{kind}"
        self.layers.append({"mediaType": media, "digest": f"sha256:{content.sha256}", "size": content.size})
        return content

    def add_config(self) -> Content:
        """Put the configuration into the model."""
        content = Content(b'{"model_format":"gguf"}')
        self.storage.files[content.sha256] = content
        media = "application/vnd.docker.container.image.v1+json"
        self.config = {"mediaType": media, "digest": f"sha256:{content.sha256}", "size": content.size}
        return content

    def answer(self, handler: _Handler) -> None:
        url = urlsplit(handler.path)
        if url.path == "/token":
            self._give_token(handler, parse_qs(url.query))
            return
        if self.token is not None and handler.headers.get("authorization") != f"Bearer {self.token}":
            realm = self.realm or f"{self.url}/token"
            scope = f"repository:{self.name}:pull"
            challenge = f'Bearer realm="{realm}",service="{self.url}",scope="{scope}"'
            handler.reply(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": challenge})
            return
        if url.path == f"/v2/{self.name}/manifests/{self.tag}":
            manifest: dict[str, Any] = {"schemaVersion": 2, "layers": self.layers}
            if self.config is not None:
                manifest["config"] = self.config
            handler.reply(200, self.manifest_body or json.dumps(manifest).encode())
        elif url.path.startswith(f"/v2/{self.name}/blobs/sha256:"):
            digest = url.path.rpartition(":")[2]
            handler.reply(307, headers={"Location": self.storage.url_of(digest)})
        else:
            handler.reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

    def _give_token(self, handler: _Handler, fields: dict[str, list[str]]) -> None:
        if self.refuses_tokens or fields.get("scope") != [f"repository:{self.name}:pull"]:
            handler.reply(401, b"no")
            return
        self.tokens_given += 1
        handler.reply_json({"token": self.token})


class ProxyServer(_Server):
    """A proxy for http addresses. ``seen`` has the whole addresses."""

    status: int | None = None  #: of every response, instead of the server's

    def answer(self, handler: _Handler) -> None:
        if self.status is not None:
            handler.reply(self.status)
            return
        url = urlsplit(handler.path)
        upstream = http.client.HTTPConnection(url.hostname or "", url.port)
        headers = {name: value for name, value in handler.headers.items() if not name.lower().startswith("proxy-")}
        upstream.request("GET", f"{url.path}?{url.query}", headers=headers)
        response = upstream.getresponse()
        handler.reply(response.status, response.read(), dict(response.headers.items()))
        upstream.close()


def git_digest(content: Content) -> str:
    """The SHA-1 that git has for a blob."""
    data = content.part(0, content.size)
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def pull_servers() -> Iterator[tuple[HubServer, OllamaRegistryServer, Storage]]:
    """All three, running."""
    storage = Storage()
    hub, registry = HubServer(storage), OllamaRegistryServer(storage)
    with storage.running(), hub.running(), registry.running():
        yield hub, registry, storage
