"""The ingress asks for a request's prompt and sends it to the replica that holds most of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ingress_process import SECRET, IngressProcess, ingress
from openai_wire import ask, chat, say
from servers import fake

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def cluster() -> Iterator[IngressProcess]:
    arguments = ("--parallel", "4", "--ctx", "20000")
    with ExitStack() as stack:
        replicas = {name: stack.enter_context(fake(*arguments, cluster_secret=SECRET)).port for name in ("a", "b")}
        yield stack.enter_context(ingress(replicas, start={"replica_header": True}))


def asked(cluster: IngressProcess, path: str, body: dict[str, object]) -> tuple[str | None, int]:
    """The replica that answered, and how many prompt tokens it had ready."""
    reply = ask(cluster.port, "POST", path, body)
    assert reply.status == 200, reply.body
    return reply.header("x-tailrace-replica"), reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_conversation_stays_where_its_prefix_is(cluster: IngressProcess) -> None:
    """Whatever its turn: the same replica computes what is new, and nothing else."""
    for conversation in range(4):
        text = f"conversation {conversation}: " + "words " * 200
        first, _ = asked(cluster, CHAT, chat(text + say("ok")))
        for turn in range(3):
            text += f" turn {turn} " + "more " * 20
            replica, cached = asked(cluster, CHAT, chat(text + say("ok")))
            assert replica == first
            assert cached > 1000


def test_a_request_that_is_wrong_gets_a_replicas_error(cluster: IngressProcess) -> None:
    reply = ask(cluster.port, "POST", CHAT, {**chat("x" * 1000), "temperature": "hot"})
    assert (reply.status, reply.error()["param"]) == (400, "temperature")
