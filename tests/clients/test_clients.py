"""Real clients, each through its own package, directly and through a relay that loses what one-api loses.

Every proof is asked of every client (``client_matrix``); the scripted backend says what the proof needs said. With
``TAILRACE_TEST_CLIENTS_INGRESS=1`` a cluster's ingress is before every server, on every way.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import litellm_proxy
import openai_wire
from client_driver import WEATHER, Driver, ask, drivers
from client_matrix import PROOFS, Client, chosen, proofs, ways
from client_results import Results
from ingress_process import SECRET, ingress
from openai_wire import metric, say
from relay import Relay
from servers import ServerProcess, fake, wait_for

#: Whatever is cut wrongly, by bytes or by UTF-16 units, shows in it.
TEXT = "Grüße 👋🏽 aus 東京: «fertig»"

#: How the dialects say that a reply has ended by itself, and that it has ended in calls.
STOPPED = ("stop", "end_turn", "completed")
CALLED = ("tool_calls", "tool-calls", "tool_use", "completed", "stop")

#: The models of a server whose memory holds one of them.
MODELS = ("first", "second")


def several_models() -> contextlib.AbstractContextManager[ServerProcess]:
    """A server with the models ``MODELS``: each switch unloads one and loads the other."""
    sizes = {"models_mb": "400", "fake_weights_mb": ",".join(f"{name}=150" for name in MODELS)}
    return fake(*MODELS, "--keepalive-seconds", "0.3", step=0.0, cluster_secret=SECRET, **sizes)


#: Steps of a millisecond, so that replies overlap; steps of no time; one request at a time, in steps of 20 ms for
#: at most 64 tokens and a keep-alive after 0.3 s of silence; one with a key; one with several models.
KINDS: dict[str, Callable[[], contextlib.AbstractContextManager[ServerProcess]]] = {
    "quick": lambda: fake("--parallel", "8", step=0.001, cluster_secret=SECRET),
    "instant": lambda: fake("--ctx", "32768", "--parallel", "1", cluster_secret=SECRET),
    "slow": lambda: fake(
        *("--parallel", "1", "--keepalive-seconds", "0.3", "--prefill-chunk", "64", "--ctx", "16384"),
        step=0.02,
        cluster_secret=SECRET,
    ),
    "keyed": lambda: fake(api_key="s3cret", cluster_secret=SECRET),
    "several": several_models,
}
#: The kinds whose ingress shows signs of life as early as they do.
EARLY_SIGNS = ("slow", "several")


def behind_ingress() -> bool:
    """Whether clients reach the servers through an ingress in this run."""
    return os.environ.get("TAILRACE_TEST_CLIENTS_INGRESS") == "1"


class Stand:
    """The servers of a run and one way to them."""

    def __init__(
        self, servers: dict[str, ServerProcess], ports: dict[str, int], way: str, proxy: Callable[[], int]
    ) -> None:
        """``ports``: where clients reach each server."""
        self.servers = servers
        self.ports = ports
        self.way = way
        self._proxy = proxy
        self.relays: dict[str, Relay] = {}

    def endpoint(self, kind: str, key: str) -> dict[str, str]:
        """Where clients reach the server of that kind on this way, and by which model and key."""
        port, model = self.ports[kind], "fake"
        if self.way == "relay":
            # Each has a relay of its own, made when it is first asked for.
            if kind not in self.relays:
                self.relays[kind] = Relay(port).__enter__()
            port = self.relays[kind].port
        elif self.way == "litellm":
            port, model, key = self._proxy(), kind, litellm_proxy.KEY
        return {"root": f"http://127.0.0.1:{port}", "key": key, "model": model}

    def running(self, kind: str) -> float:
        """How many requests the server's engine works at."""
        return metric(self.servers[kind].port, "vllm:num_requests_running")

    def read(self, kind: str) -> float:
        """How many tokens of prompts the server's engine has read, without those that it knew."""
        port = self.servers[kind].port
        return metric(port, "vllm:prompt_tokens_total") - metric(port, "vllm:prompt_tokens_cached_total")

    def close(self) -> None:
        """Close the relays."""
        for relay in self.relays.values():
            relay.__exit__()


class Bench:
    """One client on one way."""

    def __init__(self, stand: Stand, driver: Driver) -> None:
        self.stand = stand
        self.driver = driver
        self.client = driver.client

    def results(self, kind: str, *asks: dict[str, Any], key: str = "any") -> list[dict[str, Any]]:
        """What the client has seen in conversations with the server of that kind, held at the same time."""
        return self.driver.results(self.stand.endpoint(kind, key), asks)

    def good(self, kind: str, *asks: dict[str, Any]) -> list[dict[str, Any]]:
        """The same, of conversations in which nothing fails."""
        results = self.results(kind, *asks)
        for result in results:
            assert result["error"] is None, self.driver.log[-4000:]
        return results

    def finished(self, reply: dict[str, Any], *reasons: str) -> None:
        """The reply has ended as it should, and was counted."""
        if self.client.tells_finish:
            assert reply["finish"] in reasons
        if self.client.tells_usage:
            assert reply["usage"]["prompt"] > 0
            assert reply["usage"]["completion"] > 0


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, ServerProcess]]:
    """One of each kind."""
    with contextlib.ExitStack() as stack:
        yield {kind: stack.enter_context(make()) for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def ports(servers: dict[str, ServerProcess]) -> Iterator[dict[str, int]]:
    """Where clients reach the server of each kind."""
    with contextlib.ExitStack() as stack:
        found = {kind: server.port for kind, server in servers.items()}
        if behind_ingress():
            for kind, port in found.items():
                early: dict[str, Any] = {"keepalive_seconds": 0.3} if kind in EARLY_SIGNS else {}
                found[kind] = stack.enter_context(ingress([port], **early)).port
        yield found


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    """What is proven in this run."""
    gathered = Results()
    yield gathered
    gathered.write()


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Driver]]:
    """Drivers stay for all of their client's proofs."""
    with drivers() as known:
        yield known


@pytest.fixture(scope="module")
def proxy(ports: dict[str, int]) -> Iterator[Callable[[], int]]:
    """The port of litellm's proxy, which is started when it is first asked for."""
    with contextlib.ExitStack() as stack:
        started: list[int] = []

        def port() -> int:
            if not started:
                started.append(stack.enter_context(litellm_proxy.litellm_proxy(ports)))
            return started[0]

        yield port


@pytest.fixture
def stand(
    way: str, servers: dict[str, ServerProcess], ports: dict[str, int], proxy: Callable[[], int]
) -> Iterator[Stand]:
    """The servers, with fresh relays before them where the way leads through one."""
    made = Stand(servers, ports, way, proxy)
    yield made
    made.close()


# Proofs


def whole(bench: Bench) -> None:
    """A reply that isn't streamed is shown whole, with its end and its usage."""
    (result,) = bench.good("quick", ask(say(TEXT), stream=False))
    assert result["texts"] == [TEXT]
    bench.finished(result["replies"][0], *STOPPED)


def stream(bench: Bench) -> None:
    """A streamed reply comes in many pieces, nothing lost, doubled or cut, with its end and its usage."""
    (result,) = bench.good("quick", ask(say(TEXT)))
    assert result["texts"] == [TEXT]
    (reply,) = result["replies"]
    assert reply["pieces"] > 10
    bench.finished(reply, *STOPPED)
    if bench.stand.way == "relay" and bench.client.api == "chat completions":
        usages = bench.stand.relays["quick"].usages
        # The client has its end before the relay has counted.
        wait_for("the relay's count", lambda: bool(usages), 10)
        (counted,) = usages
        assert counted["completion_tokens"] == len(TEXT.encode()) + 1


def _tools(bench: Bench, *, streamed: bool) -> None:
    call = '<tool_call>{"name": "weather", "arguments": {"city": "東京"}}</tool_call>'
    answers = {"weather": say("Sun in 東京.")}
    (result,) = bench.good("quick", ask(say(call), stream=streamed, tools=[WEATHER], answers=answers))
    (made,) = result["calls"]
    assert made["name"] == "weather"
    assert _arguments(made) == {"city": "東京"}
    assert result["texts"] == ["Sun in 東京."]
    first, second = result["replies"]
    bench.finished(first, *CALLED)
    bench.finished(second, *STOPPED)


def _arguments(call: dict[str, Any]) -> Any:
    """Some clients give them as text."""
    return json.loads(call["arguments"]) if isinstance(call["arguments"], str) else call["arguments"]


def whole_tools(bench: Bench) -> None:
    """A tool is called, answers, and the reply comes; nothing streamed."""
    _tools(bench, streamed=False)


def stream_tools(bench: Bench) -> None:
    """The same, streamed."""
    _tools(bench, streamed=True)


def long_call(bench: Bench) -> None:
    """A call's arguments of thousands of bytes, which may come in as many fragments, are joined to what they were."""
    city = "東京 «x» " * 300
    call = json.dumps({"name": "weather", "arguments": {"city": city}}, ensure_ascii=False)
    (result,) = bench.good("instant", ask(say(f"<tool_call>{call}</tool_call>"), tools=[WEATHER]))
    (made,) = result["calls"]
    assert _arguments(made) == {"city": city}


def two_chats(bench: Bench) -> None:
    """Two chats at once, two turns each, beside short requests as interfaces make them in the background."""
    one, two = ["A" * 150, "a" * 150], ["B" * 150, "b" * 150]
    asks = [ask(*map(say, one)), ask(*map(say, two))]
    asks += [ask(say(f"title {number}"), stream=bool(number % 2) or "whole" in bench.client.lacks) for number in (1, 2)]
    results = bench.good("quick", *asks)
    assert [result["texts"] for result in results] == [one, two, ["title 1"], ["title 2"]]


def reasoning(bench: Bench) -> None:
    """Reasoning is shown as such, and isn't part of the reply."""
    (result,) = bench.good("quick", ask(say("<think>Let me see.</think>Yes.")))
    assert result["texts"] == ["Yes."]
    assert result["replies"][0]["reasoning"] == "Let me see."


def long_wait(bench: Bench) -> None:
    """A prompt that is read for seconds: the client's patience, 1.5 s where it can be set, isn't used up."""
    # A prompt that began as another did would be known already.
    prompt = f"{bench.client.name} {bench.stand.way} " + "a" * 8000 + say("there")
    read = bench.stand.read("slow")
    (result,) = bench.good("slow", ask(prompt))
    assert bench.stand.read("slow") - read > 8000
    assert result["texts"] == ["there"]
    bench.finished(result["replies"][0], *STOPPED)


def errors(bench: Bench) -> None:
    """What is refused is an error for the client, with the server's words; a wrong key alone closes a channel."""
    stand = bench.stand
    (result,) = bench.results("slow", ask("x" * 20_000 + say("the end")))
    if bench.client.api == "Ollama":  # It shortens what is too long, unless it is told not to.
        assert result["texts"] == ["the end"], result
    else:
        assert "context" in result["error"]["message"], result
        assert result["error"]["status"] in {400, None}
    (result,) = bench.results("slow", ask(say("still here")))
    assert result["texts"] == ["still here"]
    (result,) = bench.results("keyed", ask(say("no")), key="wrong")
    assert result["error"]["status"] in {401, None}, result
    assert "key" in result["error"]["message"].lower()
    if stand.way == "relay":
        assert [relay.enabled for relay in stand.relays.values()] == [True, False]


def broken(bench: Bench) -> None:
    """A reply that breaks in the middle isn't taken for a whole one: the client raises, or its user reads the error."""
    (result,) = bench.results("quick", ask("<say>ab<nan></say>"))
    if result["error"] is None:
        assert result["texts"][0].startswith("ab")
        assert "[error: " in result["texts"][0]
        # Behind a relay's own [DONE] some clients make up an end.
        assert bench.stand.way != "direct" or result["replies"][0]["finish"] != "stop"


def leaving(bench: Bench) -> None:
    """A client that stops reading frees the engine."""
    bench.results("slow", ask("<say>" + "x" * 7000 + "</say>", leave_after=3))
    wait_for("the slot to be free", lambda: bench.stand.running("slow") == 0)
    (result,) = bench.good("slow", ask(say("next")))
    assert result["texts"] == ["next"]


def switching(bench: Bench) -> None:
    """Models of one server are asked in turn. Each switch loads one, and the client just waits for its reply."""
    port = bench.stand.servers["several"].port
    endpoint = bench.stand.endpoint("several", "any")
    before = {model: finished_replies(port, model) for model in MODELS}
    for number, model in enumerate((*MODELS, *MODELS)):
        asked = ask(say(f"{TEXT} {number}"))
        (result,) = bench.driver.results({**endpoint, "model": model}, [asked])
        assert result["error"] is None, bench.driver.log[-4000:]
        assert result["texts"] == [f"{TEXT} {number}"]
    assert {model: finished_replies(port, model) - before[model] for model in MODELS} == dict.fromkeys(MODELS, 2)


def finished_replies(port: int, model: str) -> float:
    """How many replies the model has finished."""
    lines = openai_wire.ask(port, "GET", "/metrics").body.decode().splitlines()
    start, label = "vllm:request_success_total{", f'model_name="{model}"'
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start) and label in line)


KNOWN = {
    proof.__name__.replace("_", "-"): proof
    for proof in (
        *(whole, stream, whole_tools, stream_tools, long_call, two_chats, reasoning),
        *(long_wait, errors, broken, leaving, switching),
    )
}
MATRIX = [
    pytest.param(client, way, proof, id=f"{client.name}-{way}-{proof}")
    for client in chosen()
    if client.asked == PROOFS
    for way in ways(client)
    for proof in proofs(client, way)
]


@pytest.mark.parametrize(("client", "way", "proof"), MATRIX)
def test_client(
    client: Client, way: str, proof: str, stand: Stand, running: dict[str, Driver], results: Results
) -> None:
    if client.name not in running:
        running[client.name] = Driver(client)
    results.begin(client, way, proof)
    KNOWN[proof](Bench(stand, running[client.name]))
    results.passed(client, way, proof)
