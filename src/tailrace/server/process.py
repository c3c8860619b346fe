"""The HTTP process's entry. Started by the supervisor as ``python -m tailrace.server.process``."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time

import structlog
import uvloop

from tailrace.child import (
    EXIT_CONFIGURATION,
    Start,
    read_start,
    record_log,
    settle_memory,
    settle_on,
    settle_signals,
    unblock_signals,
)
from tailrace.errors import ConfigurationError, ModelError
from tailrace.observe import log_writer, logs
from tailrace.own_process import open_files
from tailrace.own_process.thread_name import name_thread
from tailrace.server import health
from tailrace.server.app import make_app
from tailrace.server.app_state import AppState
from tailrace.server.http_server import HttpServer
from tailrace.server.memory_trim import settle_allocator
from tailrace.server.models.supervisor_link import SupervisorLink
from tailrace.server.startup_message import announce, title_of
from tailrace.serving.model_spec import ModelSpec, loads_on_demand
from tailrace.shared_memory.lives_page import LivesPage
from tailrace.shared_memory.progress_page import Phase, ProgressPage

#: Seconds for which a thread may run Python code while the event loop waits for its turn: a rendering, say.
_SWITCH_SECONDS = 0.001


def main() -> None:
    """Serve until a signal; then give running replies some seconds to finish."""
    start = read_start()
    sys.setswitchinterval(_SWITCH_SECONDS)
    name_thread("tailrace-http")
    settle_signals(ignore_hang_up=False)
    logs.configure("http", level=start.settings.log_level, form=start.settings.log_format, fd=start.log_fd)
    record_log(start)
    settle_on(start.plan.http_cpus)
    settle_allocator()
    try:
        uvloop.run(_serve(start))
    except ConfigurationError as error:
        # The command has checked the settings, so a file has changed since. Another start may find it mended.
        structlog.get_logger().error("the HTTP process can't start", error=str(error))
        log_writer.standard_error().flush_last()
        sys.exit(1)


async def _serve(start: Start) -> None:
    assert start.http_fd is not None
    settings = start.settings
    page = ProgressPage(start.progress_fd)
    http = socket.socket(fileno=start.http_fd)
    models = start.models or (_only_model(start),)
    link = SupervisorLink(socket.socket(fileno=start.control_fd)) if start.control_fd >= 0 else None
    alone = not loads_on_demand(settings, models)
    app = AppState(settings, models, orders=None if alone else link, memory=start.memory, plan=start.plan)

    if start.log_page_fd >= 0:
        app.dashboard.read_log(start.log_page_fd)
    if start.lives_fd >= 0:
        app.metrics.lives = LivesPage(start.lives_fd)

    def look() -> None:
        """The server is ready once it can serve, and stays so."""
        if not page.ready and health.state(app) == "ok":
            if start.announce:
                services = app.models.services
                announce(
                    http, settings, title_of(services, on_demand=not alone), services[0], needs_key=app.keys.required
                )
            page.ready = True

    def on_unusable(error: ModelError) -> None:
        page.message = str(error)
        _give_up(error)

    for service in app.models.services:
        service.on_change.append(lambda service: look())
        service.on_ready = lambda model: look()
        if alone:
            service.on_unusable = on_unusable

    def on_tick() -> None:
        page.beat(time.monotonic())
        app.gate.tick()
        app.dashboard.history.tick()

    app.hub.on_tick = on_tick
    page.phase = Phase.SERVING
    await app.hub.start(socket.socket(fileno=start.hub_fd))
    if link is not None:
        link.on_report, link.on_all = app.models.on_report, app.models.on_all_reported
        link.start()
        if not alone:
            await link.all_reported()
    look()
    _reload_on_hang_up(app, page)
    asgi = make_app(app)
    settle_memory()
    for begin in app.on_start:
        begin()
    server = HttpServer(asgi, http, app, open_files.limit(), app.certificate)
    app.metrics.connections = server.connections
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, server, number)
    await server.serve()
    for stop in app.on_shutdown:
        stop()
    if app.database is not None:
        app.database.close()
    await app.hub.stop()
    if link is not None:
        link.stop()
    structlog.get_logger().info("stopped")
    log_writer.standard_error().flush_last()
    os._exit(0)  # Python would take apart millions of objects of replies, and wait for threads that render prompts.


def _only_model(start: Start) -> ModelSpec:
    return ModelSpec(name=start.model_name, path=start.model_path, settings=start.settings, at_start=True)


def _stop(server: HttpServer, number: int) -> None:
    """Drain at the first signal, end at the second."""
    if server.stopping:
        os._exit(128 + number)
    server.stop()


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


if __name__ == "__main__":
    main()
