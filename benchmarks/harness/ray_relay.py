"""A Ray of its own with one Serve deployment, which relays every request to a server.

``python -m benchmarks.harness.ray_relay MODE TARGET`` is the process: it prints the port of Serve's ingress, and ends
with its standard input. Ray reads its switches when it is imported, so each mode is another process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.servers import ServerError, free_port
from tailrace.loadtest.bench_client import BenchClient

#: Ray's switches of each mode: Serve's own HTTP proxy, or HAProxy in front of the deployment's own HTTP server.
MODES = {"proxy": {"RAY_SERVE_ENABLE_HA_PROXY": "0"}, "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"}}
#: Seconds for Ray's end.
_END_SECONDS = 60.0
#: Headers of requests that the relay passes on.
_HEADERS = ("content-type", "authorization")


def is_installed() -> bool:
    """Whether Ray Serve is here."""
    return importlib.util.find_spec("ray") is not None and importlib.util.find_spec("aiohttp") is not None


@contextlib.contextmanager
def ray_relay(mode: str, target: int) -> Iterator[tuple[BenchClient, int]]:
    """A client of Serve's ingress, whose requests go on to the server on port ``target``; and Ray's main process id."""
    command = [sys.executable, "-m", "benchmarks.harness.ray_relay", mode, f"http://127.0.0.1:{target}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=Path(__file__).parents[2]
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port.isdigit():
                log.seek(0)
                words = log.read().decode("utf-8", "replace")[-3000:]
                raise ServerError(f"Ray Serve didn't start:\n{words}")
            yield BenchClient(f"http://127.0.0.1:{int(port)}"), process.pid
        finally:
            process.stdin.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _deploy(target: str, folder: str, port: int) -> None:
    """Start Ray, and Serve with the relay on ``port``."""
    import aiohttp
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse

    class Relay:
        """Passes a request on, and returns the response's bytes as they come."""

        def __init__(self) -> None:
            self._session: Any = None

        async def __call__(self, request: Request) -> Response:
            if self._session is None:
                self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
            headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
            url = f"{target}{request.url.path}"
            answer = await self._session.request(request.method, url, data=await request.body(), headers=headers)

            async def pieces() -> AsyncIterator[bytes]:
                async for piece in answer.content.iter_any():
                    yield piece

            return StreamingResponse(pieces(), answer.status, media_type=answer.headers.get("content-type"))

    ray.init(address="local", num_cpus=4, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment = serve.deployment(
        max_ongoing_requests=1000, logging_config={"enable_access_log": False}, ray_actor_options={"num_cpus": 1}
    )
    serve.run(deployment(Relay).bind(), name="relay", route_prefix="/")


def main(mode: str, target: str) -> None:
    """The process."""
    # Ray's sockets are in it, and their paths may have 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    os.environ.update(
        MODES[mode],
        RAY_USAGE_STATS_ENABLED="0",
        RAY_SERVE_HAPROXY_CONFIG_FILE_LOC=f"{folder}/haproxy.cfg",
        RAY_SERVE_HAPROXY_SOCKET_PATH=f"{folder}/admin.sock",
        RAY_SERVE_HAPROXY_SERVER_STATE_BASE=folder,
        RAY_SERVE_HAPROXY_SERVER_STATE_FILE=f"{folder}/server-state",
        RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH=f"{folder}/metrics.sock",
        RAY_SERVE_HAPROXY_METRICS_PORT=str(free_port()),
        RAY_SERVE_HAPROXY_STATS_PORT=str(free_port()),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    import ray
    from ray import serve

    port = free_port()
    try:
        _deploy(target, folder, port)
        print(port, flush=True)
        sys.stdin.read()
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
