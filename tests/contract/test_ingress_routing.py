"""The ingress asks for a request's prompt and sends it to the replica that holds most of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
import pytest

from ingress_process import SECRET, IngressProcess, ingress
from openai_wire import ask, chat, say
from servers import PATIENCE, fake
from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster.state_reader import StateReader
from tailrace.cluster_protocol.prefix_chain import unpack_hashes
from tailrace.cluster_protocol.state import SECRET_HEADER, PromptChains

CHAT = "/v1/chat/completions"


@dataclass
class Cluster:
    """An ingress, and the replicas as their state channels report them."""

    ingress: IngressProcess
    views: dict[str, ReplicaView]

    def ask(self, body: dict[str, object]) -> tuple[str, int]:
        """The replica that answered, and how many prompt tokens it had ready. Returns when the replica has published
        that it holds the prompt and is idle: before, the next request may go elsewhere.
        """
        reply = ask(self.ingress.port, "POST", CHAT, body)
        assert reply.status == 200, reply.body
        name = reply.header("x-tailrace-replica")
        assert name is not None
        view = self.views[name]
        answer = ask(view.port, "POST", f"/cluster/prompt?path={CHAT}", body, {SECRET_HEADER: SECRET})
        (prompt,) = msgspec.json.decode(answer.body, type=PromptChains).prompts
        deadline = time.monotonic() + PATIENCE
        while not _is_settled(view, unpack_hashes(prompt.hashes)):
            assert time.monotonic() < deadline, "the replica doesn't publish what it holds"
            time.sleep(0.01)
        return name, reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def _is_settled(view: ReplicaView, hashes: Sequence[int]) -> bool:
    is_idle = all(not (load.running or load.waiting or load.waiting_prompt_tokens) for load in view.models.values())
    return is_idle and view.held.keys() >= set(hashes)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    arguments = ("--parallel", "4", "--ctx", "20000")
    with ExitStack() as stack:
        replicas = {name: stack.enter_context(fake(*arguments, cluster_secret=SECRET)).port for name in ("a", "b")}
        # These tests are about routing: a replica that gets no CPU time for seconds isn't lost here.
        patience = {"silence_seconds": PATIENCE, "lookup_seconds": PATIENCE}
        process = stack.enter_context(ingress(replicas, start={"replica_header": True, **patience}))
        views = {name: ReplicaView(name, "127.0.0.1", port) for name, port in replicas.items()}
        for view in views.values():
            stack.callback(StateReader(view, SECRET).stop)
        yield Cluster(process, views)


def test_a_conversation_stays_where_its_prefix_is(cluster: Cluster) -> None:
    """Whatever its turn: the same replica computes what is new, and nothing else."""
    for conversation in range(4):
        text = f"conversation {conversation}: " + "words " * 200
        first, _ = cluster.ask(chat(text + say("ok")))
        for turn in range(3):
            text += f" turn {turn} " + "more " * 20
            replica, cached = cluster.ask(chat(text + say("ok")))
            assert replica == first
            assert cached > 1000


def test_a_request_that_is_wrong_gets_a_replicas_error(cluster: Cluster) -> None:
    reply = ask(cluster.ingress.port, "POST", CHAT, {**chat("x" * 1000), "temperature": "hot"})
    assert (reply.status, reply.error()["param"]) == (400, "temperature")
