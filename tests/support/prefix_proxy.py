"""A reverse proxy that puts a server under a path, as nginx does with ``location /llm/`` and ``proxy_pass``."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Headers between two hops, which aren't passed on.
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "host"})


@contextlib.contextmanager
def prefix_proxy(upstream: int, prefix: str) -> Iterator[int]:
    """The port of a proxy whose paths below ``prefix`` lead to the port ``upstream``; all others are a 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on()

        def do_POST(self) -> None:
            self._pass_on()

        def _pass_on(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            # With Host and Origin as the client sent them.
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP - {"host"}}
            connection = http.client.HTTPConnection("127.0.0.1", upstream)
            with contextlib.closing(connection):
                connection.request(self.command, self.path.removeprefix(prefix), body, headers)
                response = connection.getresponse()
                self.send_response_only(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                self.send_header("connection", "close")
                self.end_headers()
                while piece := response.read1(65536):
                    self.wfile.write(piece)
                    self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
