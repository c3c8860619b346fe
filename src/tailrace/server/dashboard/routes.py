"""The routes of the page's dashboard, below ``/stats``. All need a key where the server has keys.

A reader sees its own requests, and the operator sees all. The log is the operator's alone.
"""

from __future__ import annotations

import math
import time
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tailrace import __version__
from tailrace.diagnosis.core_use import CoreUse, core_use
from tailrace.diagnosis.report import Stats
from tailrace.errors import Forbidden, InvalidRequest
from tailrace.server import health
from tailrace.server.app_state import AppState
from tailrace.server.caller import caller_of
from tailrace.server.dashboard.history import History
from tailrace.server.dashboard.model_rows import Models, models
from tailrace.server.dashboard.operator import is_operator
from tailrace.server.dashboard.running_requests import RequestRow
from tailrace.server.endpoint import Endpoint
from tailrace.server.json_response import json_response
from tailrace.server.open_streams import client_name
from tailrace.server.query_params import read_query
from tailrace.shared_memory.log_page import LogLine


class MachineUse(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's memory, in bytes. 0: the system doesn't say."""

    memory: int
    available: int  #: that can be had without swapping


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/stats/live``."""

    time: float  #: Unix time in seconds
    version: str
    started: float  #: Unix time of the HTTP process's start: another value is another process
    state: str  #: as ``/health`` has it
    operator: bool  #: whether the reader is the operator
    keys: bool  #: whether this server has keys
    stats: Stats
    machine: MachineUse
    cores: list[CoreUse]
    requests: list[RequestRow]  #: those that the reader may see
    hidden_requests: int  #: how many it may not see, or that are beyond the first 200
    history: History  #: the points after the parameter ``after``


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/stats/log``."""

    lines: list[LogLine]
    last: int  #: the number of the last line: the next request's ``after``


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that was cancelled."""

    cancelled: int  #: its number


class HistoryQuery(msgspec.Struct):
    """The parameters of ``/stats/live`` and ``/stats/history``."""

    #: Unix time in seconds: points after it. Without it ``/stats/live`` has none, and ``/stats/history`` all.
    after: Annotated[float, Meta(ge=0)] | None = None


class LogQuery(msgspec.Struct):
    """The parameters of ``/stats/log``."""

    after: Annotated[int, Meta(ge=0)] | None = None  #: the number of the last line that is known


def routes(app: AppState) -> list[Endpoint]:
    """The routes."""
    dashboard = _Dashboard(app)
    return [
        Endpoint(
            "GET",
            "/stats/live",
            dashboard.live,
            "What the dashboard shows: findings, requests, cores, and the newest points of the history",
            query=HistoryQuery,
            replies={200: Live},
            statuses=frozenset({400, 401}),
            shown="/stats/live",
        ),
        Endpoint(
            "GET",
            "/stats/history",
            dashboard.history,
            "Throughput, queue and latencies of the last five minutes, a point a second",
            query=HistoryQuery,
            replies={200: History},
            statuses=frozenset({400, 401}),
            shown="/stats/history",
        ),
        Endpoint(
            "GET",
            "/stats/models",
            dashboard.models,
            "The served models: their phase, their memory, and whether they can be loaded or unloaded",
            replies={200: Models},
            shown="/stats/models",
        ),
        Endpoint(
            "GET",
            "/stats/log",
            dashboard.log,
            "The last log lines of all processes, for the operator",
            query=LogQuery,
            replies={200: Log},
            statuses=frozenset({400, 401, 403}),
            shown="/stats/log",
        ),
        Endpoint(
            "DELETE",
            "/stats/requests/{number}",
            dashboard.cancel,
            "Cancel a request that runs or waits: one's own, or any one as the operator",
            replies={200: Cancelled},
            statuses=frozenset({400, 401, 404}),
            shown="/stats/requests/{number}",
        ),
    ]


class _Dashboard:
    def __init__(self, app: AppState) -> None:
        self._app = app

    async def live(self, request: Request) -> Response:
        app, dashboard = self._app, self._app.dashboard
        after = read_query(HistoryQuery, request).after
        operator, reader = is_operator(request), caller_of(request.scope)
        own = client_name(reader)
        interval, stats = await app.stats.look(reveal=lambda name: operator or name == own)
        rows = dashboard.running.rows(reader, operator=operator)
        machine = interval.after.machine
        return json_response(
            Live(
                time=time.time(),
                version=__version__,
                started=dashboard.started,
                state=health.state(app),
                operator=operator,
                keys=app.keys.required,
                stats=stats,
                machine=MachineUse(memory=machine.memory, available=machine.available),
                cores=core_use(interval, app.stats.places),
                requests=rows,
                hidden_requests=len(dashboard.running) - len(rows),
                history=dashboard.history.since(math.inf if after is None else after),
            )
        )

    async def history(self, request: Request) -> Response:
        after = read_query(HistoryQuery, request).after
        return json_response(self._app.dashboard.history.since(after or 0.0))

    async def models(self, request: Request) -> Response:
        return json_response(models(self._app))

    async def log(self, request: Request) -> Response:
        if not is_operator(request):
            raise Forbidden(
                "The log is shown to the operator: the holder of the key of the setting 'api_key', or, without keys, a "
                "client on the server's own machine."
            )
        after = read_query(LogQuery, request).after
        lines = self._app.dashboard.log.lines(after or 0)
        return json_response(Log(lines=lines, last=self._app.dashboard.log.last))

    async def cancel(self, request: Request) -> Response:
        text = request.path_params["number"]
        if not text.isdecimal() or len(text) > 15:
            raise InvalidRequest("'number' must be the number of a request, as /stats/live has it.", param="number")
        self._app.dashboard.running.cancel(int(text), caller_of(request.scope), operator=is_operator(request))
        return json_response(Cancelled(cancelled=int(text)))
