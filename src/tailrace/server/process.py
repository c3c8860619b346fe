"""The HTTP process's entry. Started by the supervisor as ``python -m tailrace.server.process``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
import uvicorn
import uvloop

from tailrace.child import (
    EXIT_CONFIGURATION,
    Start,
    read_start,
    settle_memory,
    settle_on,
    settle_signals,
    unblock_signals,
)
from tailrace.errors import ModelError
from tailrace.machine.thread_name import name_thread
from tailrace.observe import log_writer, logs
from tailrace.progress_page import Phase, ProgressPage
from tailrace.server.app import make_app
from tailrace.server.app_state import AppState
from tailrace.server.http_protocol import HttpProtocol
from tailrace.server.served_model import ServedModel
from tailrace.server.startup_message import announce


def main() -> None:
    """Serve until a signal; then give running replies some seconds to finish."""
    start = read_start()
    name_thread("tailrace-http")
    settle_signals(ignore_hang_up=False)
    logs.configure("http", level=start.settings.log_level, form=start.settings.log_format)
    settle_on(start.plan.http_cpus)
    uvloop.run(_serve(start))


async def _serve(start: Start) -> None:
    assert start.http_fd is not None
    settings = start.settings
    page = ProgressPage(start.progress_fd)
    http = socket.socket(fileno=start.http_fd)
    path = Path(start.model_path) if start.model_path is not None else None
    app = AppState(settings, start.model_name, len(start.plan.replicas), model_path=path, plan=start.plan)

    def on_ready(model: ServedModel) -> None:
        if start.announce:
            announce(http, settings, start.model_name, model)
        page.ready = True

    def on_unusable(error: ModelError) -> None:
        page.message = str(error)
        _give_up(error)

    app.engine.on_ready = on_ready
    app.engine.on_unusable = on_unusable
    app.engine.on_tick = lambda: page.beat(time.monotonic())
    page.phase = Phase.SERVING
    await app.engine.start(socket.socket(fileno=start.hub_fd))
    _reload_on_hang_up(app, page)
    config = uvicorn.Config(
        make_app(app),
        loop="none",
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=2048,
        # Longer than the pools of common clients and proxies keep a connection idle, so that they close first.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    settle_memory()
    async with _stopping_on_signals(uvicorn_server := _Server(config)):
        await uvicorn_server.serve(sockets=[http])
    for stop in app.on_shutdown:
        stop()
    await app.engine.stop()
    structlog.get_logger().info("stopped")


def _give_up(error: ModelError) -> None:
    """End at once, with the exit status after which the supervisor doesn't start the process again."""
    structlog.get_logger().error("the model can't be served", error=str(error))
    log_writer.standard_error().flush_last()
    os._exit(EXIT_CONFIGURATION)


def _reload_on_hang_up(app: AppState, page: ProgressPage) -> None:
    """Read files again at each SIGHUP, also at one that has come since this process was started."""

    def reload() -> None:
        app.reload()
        page.reloads += 1

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    unblock_signals()


class _Server(uvicorn.Server):
    """uvicorn's server without its own signal handling, which would raise the signal again after shutdown, and without
    its ten wake-ups a second, which would interrupt a model that needs the cores.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stop_requested = asyncio.Event()

    def stop(self) -> None:
        """Have ``serve`` return after running replies."""
        self.should_exit = True
        self._stop_requested.set()

    async def main_loop(self) -> None:
        """Renew the Date header once a second until ``stop``."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_requested.wait(), 1.0)

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # typed as uvicorn's own, which has no types
        yield


@contextlib.asynccontextmanager
async def _stopping_on_signals(server: _Server) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    yield


if __name__ == "__main__":
    main()
