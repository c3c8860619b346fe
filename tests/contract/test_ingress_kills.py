"""A replica that is killed: its running reply ends with an error, and what waits there goes to another one."""

from __future__ import annotations

from contextlib import ExitStack

from ingress_process import SECRET, ingress
from openai_wire import Connection, chat, chat_stream, failed_stream, metric, say
from servers import fake, wait_for

CHAT = "/v1/chat/completions"
ENDLESS = "<say>" + "x" * 7000 + "</say>"  # for two minutes


def test_a_killed_replicas_waiting_request_is_computed_once_by_another() -> None:
    with ExitStack() as stack:
        killed, left = (
            stack.enter_context(fake("--parallel", "1", step=0.02, cluster_secret=SECRET)) for _ in range(2)
        )
        process = stack.enter_context(ingress({"killed": killed.port}, start={"replica_header": True}))
        running, queued = (stack.enter_context(Connection(process.port)) for _ in range(2))
        running.request("POST", CHAT, chat(ENDLESS, stream=True))
        assert running.read_head().status == 200
        queued.request("POST", CHAT, chat(say("abc"), stream=True))
        wait_for("it to wait", lambda: metric(killed.port, "vllm:num_requests_waiting") == 1)
        process.add("left", left.port)
        before = metric(left.port, "vllm:prompt_tokens_total")
        killed.process.kill()
        _, error = failed_stream(list(running.chunks()))
        assert error["code"] == "replica_lost"
        reply = queued.read()
        assert chat_stream(reply).text == ["abc"]
        assert reply.header("x-tailrace-replica") == "left"
        assert 0 < metric(left.port, "vllm:prompt_tokens_total") - before < 200
