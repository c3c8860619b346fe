"""``GET /metrics`` of the ingress: its own metrics, and those of all replicas.

Replicas are asked at the same time. One that doesn't answer in time is left out and counted, so that a replica that
hangs doesn't hide the others. Scrapes that come at the same time share one reading.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable
from urllib.parse import parse_qs

import structlog
from starlette.responses import Response
from starlette.types import Scope

from tailrace.cluster.ingress.fetch import FetchFailedError, fetch
from tailrace.cluster.ingress.forwarded_head import forwarded_head
from tailrace.cluster.ingress.readiness import Readiness
from tailrace.cluster.ingress.replicas import Replica, Replicas
from tailrace.cluster.ingress.work import IngressWork
from tailrace.cluster.metrics.ingress_metrics import IngressSource, ModelSource, ReplicaSource, own_lines
from tailrace.cluster.metrics.merged_texts import MAX_TEXT_BYTES, MergedTexts
from tailrace.errors import InvalidRequest
from tailrace.observe.exposition import CONTENT_TYPE
from tailrace.observe.process_stats import read_process

#: Seconds for all replicas' answers. Prometheus waits for 10 s.
_SECONDS = 3.0
#: Replicas that are asked at the same time, and bytes of all answers together.
_AT_ONCE = 32
_MAX_BYTES = 64 << 20
#: Seconds for which texts are merged without a pause: streams go on meanwhile.
_SLICE_SECONDS = 0.003
#: What ``?of=`` may name: the ingress's own metrics, those of the replicas, or both without it.
_PARTS = ("ingress", "replicas")
#: Headers with the key that the replicas check, too.
_KEYS = (b"authorization", b"x-api-key")


class MetricsEndpoint:
    """See the module."""

    def __init__(self, work: IngressWork, replicas: Replicas, readiness: Readiness) -> None:
        self._work = work
        self._replicas = replicas
        self._readiness = readiness
        self._unread = 0
        self._left_out_lines = 0
        self._reading: asyncio.Task[list[str]] | None = None
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope) -> Response:
        """The text. Raises InvalidRequest for an unknown part."""
        named = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("of")
        if named is not None and named[-1] not in _PARTS:
            raise InvalidRequest(f"of can't be '{named[-1][:40]}': it is one of {', '.join(_PARTS)}.", param="of")
        parts = _PARTS if named is None else named[-1:]
        replicas = await self._replicas_lines(scope) if "replicas" in parts else []
        own = "".join(self._own_lines()) if "ingress" in parts else ""
        return Response("".join([own, *replicas]).encode(), headers={"content-type": CONTENT_TYPE})

    async def _replicas_lines(self, scope: Scope) -> list[str]:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(scope))
            self._reading.add_done_callback(self._read_ended)
        # A scrape that is broken off doesn't end the reading for the others.
        return await asyncio.shield(self._reading)

    def _read_ended(self, reading: asyncio.Task[list[str]]) -> None:
        self._reading = None
        if not reading.cancelled() and (error := reading.exception()) is not None:
            self._log.error("the replicas' metrics can't be merged", exc_info=error)

    async def _read(self, scope: Scope) -> list[str]:
        """The merged metrics of all replicas that answer."""
        head = forwarded_head(
            "GET",
            b"/metrics",
            "1.1",
            [header for header in scope["headers"] if header[0] in _KEYS],
            client="",
            scheme="http",
            request_id="metrics",
            secret=self._work.settings.cluster_secret or "",
            length=None,
            keep_alive=True,
        )
        asked = [replica for replica in self._replicas.all if not replica.view.gone]
        places = asyncio.Semaphore(_AT_ONCE)
        deadline = asyncio.get_running_loop().time() + _SECONDS
        texts = await asyncio.gather(*(self._ask(replica, head, places, deadline) for replica in asked))
        return await self._merge(zip(asked, texts, strict=True))

    async def _ask(self, replica: Replica, head: bytes, places: asyncio.Semaphore, deadline: float) -> bytes | None:
        """The replica's text; None where it is left out."""
        try:
            async with asyncio.timeout_at(deadline), places:
                return await fetch(replica, "GET", head, seconds=_SECONDS, limit=MAX_TEXT_BYTES)
        except TimeoutError:
            self._leave_out(replica, "no answer in time")
        except FetchFailedError as error:
            self._leave_out(replica, str(error))
        return None

    async def _merge(self, texts: Iterable[tuple[Replica, bytes | None]]) -> list[str]:
        merged = MergedTexts()
        size = 0
        paused = time.monotonic()
        for replica, text in texts:
            if text is None:
                continue
            size += len(text)
            if size > _MAX_BYTES:
                self._leave_out(replica, f"all metrics together have over {_MAX_BYTES} bytes")
                continue
            for _ in merged.add(text, replica=replica.view.id, model=_model_of(replica)):
                if time.monotonic() - paused > _SLICE_SECONDS:
                    await asyncio.sleep(0)
                    paused = time.monotonic()
        self._left_out_lines += merged.left_out_lines
        return list(merged.lines())

    def _leave_out(self, replica: Replica, reason: str) -> None:
        self._unread += 1
        self._log.warning("a replica's metrics are left out", replica=replica.view.id, reason=reason)

    def _own_lines(self) -> Iterable[str]:
        replicas, work = self._replicas, self._work
        status = self._readiness.status(draining=work.draining)
        ingress = IngressSource(
            ready=status.status == "ok",
            managed=not self._readiness.parent_gone,
            requests=work.in_flight,
            errors=replicas.counts.errors,
            unread=self._unread,
            left_out_lines=self._left_out_lines,
            process=read_process(os.getpid()),
        )
        by_model: dict[str, list[Replica]] = {name: [] for name in replicas.models}
        for replica in replicas.all:
            by_model.setdefault(_model_of(replica), []).append(replica)
        waiting: Counter[str] = replicas.waiting
        models = {
            name: ModelSource(
                counts=replicas.counts.models[name],
                waiting=waiting[name],
                max_replicas=replicas.max_replicas(name),
                replicas=[replica.view for replica in found],
            )
            for name, found in by_model.items()
        }
        rows = [
            (name, replica.view.id, ReplicaSource(replica.view, replica.requests, replica.view.load_of(name)))
            for name, found in by_model.items()
            for replica in found
        ]
        return own_lines(ingress, models, rows)


def _model_of(replica: Replica) -> str:
    """The name of the replica's model; the first one's of several."""
    return next(iter((*replica.view.models, *replica.models)), "")
