"""The ingress's ``/metrics``: its own figures, and those of all replicas that answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tailrace.cluster.ingress import metrics_endpoint
from tailrace.cluster.ingress.metrics_endpoint import MetricsEndpoint
from tailrace.cluster.ingress.orders import AddReplica, ClusterModel, IngressStart
from tailrace.cluster.ingress.readiness import Readiness
from tailrace.cluster.ingress.replicas import Replica, Replicas
from tailrace.cluster.ingress.work import IngressWork
from tailrace.cluster.metrics.ingress_metrics import INGRESS_METRICS, MODEL_METRICS, REPLICA_METRICS
from tailrace.cluster.metrics.merged_texts import MAX_TEXT_BYTES
from tailrace.cluster.routing.sent_requests import Prompt
from tailrace.cluster_protocol.prefix_chain import pack_hashes
from tailrace.cluster_protocol.state import STATE_VERSION, HeldBlocks, ModelLoad, ReplicaState
from tailrace.errors import InvalidRequest
from tailrace.settings import Settings

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
SECRET = "s" * 32
TEXT = b'# HELP tailrace:ready Up\n# TYPE tailrace:ready gauge\ntailrace:ready 1\nx{y="z"} 2\n'


async def text(writer: asyncio.StreamWriter, body: bytes = TEXT) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


async def silence(writer: asyncio.StreamWriter) -> None:
    """Hang until the test is over."""


async def too_much(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await text(writer, b"#" * (MAX_TEXT_BYTES + 100_000))


async def an_error(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}")


class Cluster:
    """Replicas that answer as told, and an endpoint that reads them."""

    def __init__(self) -> None:
        self.replicas = Replicas(SECRET, lambda identity, phase: None)
        self.work = IngressWork(IngressStart(settings=Settings(cluster_secret=SECRET)))
        self.readiness = Readiness(self.replicas)
        self.endpoint = MetricsEndpoint(self.work, self.replicas, self.readiness)
        self.heads: list[bytes] = []  #: of the requests for metrics
        self.servers: list[asyncio.Server] = []
        self.handlers: list[asyncio.Task[None]] = []

    async def add(self, identity: str, model: str, answer: Answer) -> None:
        load = ModelLoad(name=model, slots=4, engines=1, waiting_prompt_tokens=7)
        held = HeldBlocks("host", pack_hashes([1, 2, 3]))
        state = ReplicaState(version=STATE_VERSION, phase="ready", models=[load], held=[held])

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self.handlers.append(task)
            with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    if head.startswith(b"GET /cluster/state"):
                        line = msgspec.json.encode(state) + b"\n"
                        chunk = b"%x\r\n%b\r\n" % (len(line), line)
                        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk)
                    else:
                        self.heads.append(head)
                        await answer(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.servers.append(server)
        self.replicas.add(AddReplica(identity, "127.0.0.1", server.sockets[0].getsockname()[1]))
        while not self.found(identity).takes_requests:
            await asyncio.sleep(0.01)

    def found(self, identity: str) -> Replica:
        return next(replica for replica in self.replicas.all if replica.view.id == identity)

    async def read(self, query: bytes = b"", **headers: bytes) -> dict[str, float]:
        """The samples by their names with labels."""
        named = [(name.encode(), value) for name, value in headers.items()]
        response = await self.endpoint({"type": "http", "query_string": query, "headers": named})
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(bytes(response.body).decode()):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                assert f"{sample.name}[{labels}]" not in found
                found[f"{sample.name}[{labels}]"] = sample.value
        return found


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.replicas.close()
        for server in cluster.servers:
            server.close()
        # Each handler ends with its connection.
        if cluster.handlers:
            await asyncio.wait(cluster.handlers, timeout=30)
        assert all(handler.done() for handler in cluster.handlers)


def test_the_metrics_of_all_replicas_are_there_with_their_labels() -> None:
    async def main() -> None:
        async with running() as cluster:
            await cluster.add("a", "one", text)
            await cluster.add("b", "two", text)
            found = await cluster.read(authorization=b"Bearer k", cookie=b"c")
        assert found["tailrace:ready[model=one,replica=a]"] == found["tailrace:ready[model=two,replica=b]"] == 1
        assert found["x[model=one,replica=a,y=z]"] == 2
        assert found["tailrace:cluster_ready[]"] == 1
        assert found["tailrace:cluster_replicas[model=two,phase=ready]"] == 1
        assert found["tailrace:cluster_replica_waiting_prompt_tokens[model=one,replica=a]"] == 7
        assert found["tailrace:cluster_replica_prefix_blocks[model=one,replica=a,tier=host]"] == 3
        # The replicas check the key, too; the client's other headers are none of their business.
        assert all(b"authorization: Bearer k\r\n" in head for head in cluster.heads)
        assert not any(b"cookie" in head for head in cluster.heads)

    asyncio.run(main())


def test_a_replica_that_gives_no_answer_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_endpoint, "_SECONDS", 0.5)

    async def main() -> None:
        async with running() as cluster:
            await cluster.add("good", "m", text)
            for identity, answer in (("silent", silence), ("large", too_much), ("refuses", an_error)):
                await cluster.add(identity, "m", answer)
            found = await cluster.read()
        assert [name for name in found if name.startswith("tailrace:ready[")] == [
            "tailrace:ready[model=m,replica=good]"
        ]
        assert found["tailrace:cluster_unread_metrics_total[]"] == 3
        assert found["tailrace:cluster_replicas[model=m,phase=ready]"] == 4

    asyncio.run(main())


def test_scrapes_at_the_same_time_ask_the_replicas_once() -> None:
    async def main() -> None:
        async with running() as cluster:
            await cluster.add("a", "m", text)
            first, second = await asyncio.gather(cluster.read(), cluster.read())
            assert first.keys() == second.keys()
            assert len(cluster.heads) == 1
            await cluster.read()
            assert len(cluster.heads) == 2

    asyncio.run(main())


def test_one_part_alone_can_be_read() -> None:
    async def main() -> None:
        async with running() as cluster:
            await cluster.add("a", "m", text)
            own = await cluster.read(b"of=ingress")
            assert not cluster.heads
            assert all(name.startswith("tailrace:cluster_") for name in own)
            replicas = await cluster.read(b"of=replicas")
            assert "tailrace:ready[model=m,replica=a]" in replicas
            assert not replicas.keys() & own.keys()
            with pytest.raises(InvalidRequest, match="of can't be 'all': it is one of ingress, replicas"):
                await cluster.read(b"of=all")

    asyncio.run(main())


def test_requests_are_counted_by_model_replica_and_result() -> None:
    async def main() -> None:
        async with running() as cluster:
            await cluster.add("a", "m", text)
            counts = cluster.replicas.counts
            for status, error, gone in (
                (200, None, False),
                (404, None, False),
                (500, None, False),
                (200, "replica_lost", False),
                (503, "no_replica", False),
                (200, None, True),
                (None, None, True),
            ):
                counts.ended("m", "a", status=status, error=error, client_gone=gone, attempts=2)
            counts.answered_with("no_replica")
            counts.woke("m")
            counts.probed("m", 0.004)
            placement = cluster.replicas.choose("m", [Prompt(100, [1, 2, 9])])
            assert placement is not None
            counts.placed("m", placement.prompt_tokens, placement.held_tokens)
            found = await cluster.read(b"of=ingress")
            for result, count in (
                ("completed", 1),
                ("refused", 1),
                ("failed", 1),
                ("replica_lost", 1),
                ("no_replica", 1),
                ("client_gone", 2),
            ):
                assert found[f"tailrace:cluster_requests_total[model=m,replica=a,result={result}]"] == count
            assert found["tailrace:cluster_retries_total[model=m]"] == 7
            assert found["tailrace:cluster_wake_ups_total[model=m]"] == 1
            assert found["tailrace:cluster_probe_seconds_bucket[le=0.005,model=m]"] == 1
            assert found["tailrace:cluster_prompt_tokens_total[model=m]"] == 100
            assert 0 < found["tailrace:cluster_held_tokens_total[model=m]"] < 100
            assert found["tailrace:cluster_errors_total[code=no_replica]"] == 1
            placement.end()
            cluster.replicas.remove("a")
            assert not any("replica=a" in name for name in await cluster.read(b"of=ingress"))

    asyncio.run(main())


def test_a_model_that_sleeps_has_its_metrics() -> None:
    async def main() -> None:
        async with running() as cluster:
            cluster.replicas.set_models([ClusterModel(name="m", max_replicas=3, wakes=True)])
            found = await cluster.read()
            assert found["tailrace:cluster_max_replicas[model=m]"] == 3
            assert found["tailrace:cluster_replicas[model=m,phase=ready]"] == 0
            assert found["tailrace:cluster_retries_total[model=m]"] == 0
            assert found["tailrace:cluster_ready[]"] == 1
            cluster.readiness.parent_gone = True
            found = await cluster.read()
            assert found["tailrace:cluster_ready[]"] == found["tailrace:cluster_managed[]"] == 0

    asyncio.run(main())


def test_every_name_is_there_and_is_the_ingress_s_own() -> None:
    names = [metric.name for table in (INGRESS_METRICS, MODEL_METRICS, REPLICA_METRICS) for metric in table]
    assert len(names) == len(set(names))
    assert all(name.startswith("tailrace:cluster_") for name in names)
    assert all(
        metric.name.endswith("_total") == (metric.kind == "counter")
        for table in (INGRESS_METRICS, MODEL_METRICS, REPLICA_METRICS)
        for metric in table
    )
