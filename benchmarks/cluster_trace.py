"""Compares ways to choose a replica with real engines: 30 conversations of several turns on 3 replicas, beside one
machine with the memory of all of them.

Ours is measured behind a real ingress. For the other ways the client chooses by itself. Each way gets servers of its
own, whose caches are empty. ``--direct`` adds a run in which the client chooses with the ingress's function, over the
replicas' own state channels. ``--save FILE`` keeps the requests as a trace for ``benchmarks.routing.simulator``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import msgspec

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, add_options, read_options, run_and_save
from benchmarks.harness.ingress import SECRET, ingress
from benchmarks.harness.results import figure
from benchmarks.routing.policies import POLICIES, Policy, round_robin
from benchmarks.routing.trace import Turn, save
from tailrace.cluster.ingress.state_channel import StateChannel
from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster.routing.sent_requests import Prompt, SentRequests
from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS, pack_hashes, unpack_hashes
from tailrace.cluster_protocol.state import SECRET_HEADER, PromptChains
from tailrace.errors import TailraceError

#: Of the prompt tokens that one machine with the memory of all replicas computes.
BOUND = 1.1
_REPLICAS = 3
_OURS = "longest prefix, by the ingress"
_OTHERS = ("round robin", "power of two")
_CONVERSATIONS, _TURNS, _SYSTEMS = 30, 4, 3
#: Words of a system prompt and of a message, tokens of a reply, and seconds between a reply and the next message.
_SYSTEM_WORDS, _WORDS, _REPLY = 50, 50, 12
_PAUSE = 5.0
#: One replica's slots, cells and host memory: for about twelve of the conversations.
_SLOTS, _CELLS, _HOST_MB = 4, 2560, 64
_WORD_LIST = [
    "river",
    "mill",
    "turbine",
    "water",
    "stone",
    "bridge",
    "meadow",
    "winter",
    "garden",
    "letter",
    "station",
    "harbour",
    "window",
    "teacher",
    "island",
    "market",
    "evening",
    "mountain",
    "carpenter",
    "lantern",
    "orchard",
    "railway",
    "village",
    "museum",
    "library",
    "painter",
    "copper",
    "engine",
    "valley",
    "summer",
]
_CHAT = "/v1/chat/completions"


@dataclass
class Run:
    """What one way to choose has led to."""

    computed: int = 0  #: prompt tokens
    again: int = 0  #: of them those of the conversation's own earlier turns, which some replica had
    waits: list[float] = field(default_factory=list)  #: seconds to the first token
    requests: list[int] = field(default_factory=list)  #: of each server
    turns: list[Turn] = field(default_factory=list)

    def wait(self, percent: int) -> float:
        """That percentile of the milliseconds to the first token."""
        ordered = sorted(self.waits)
        return 1e3 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


class Client:
    """Sends all conversations at once, each to the server that the policy chooses for its turn."""

    def __init__(self, http: httpx.AsyncClient, ports: Sequence[int], policy: Policy | None, model: str) -> None:
        """``policy`` None: ``ports`` has one port, whose server chooses by itself."""
        self._http = http
        self._ports = ports
        self._policy = policy
        self._model = model
        self.views = [ReplicaView(f"r{number}", "127.0.0.1", port) for number, port in enumerate(ports)]
        self._sent = SentRequests()
        self._numbers = count()
        self.run = Run(requests=[0] * len(ports))

    async def converse(self, number: int, turns: int) -> None:
        """One conversation."""
        source = random.Random(number)
        system = " ".join(random.Random(-1 - number % _SYSTEMS).choices(_WORD_LIST, k=_SYSTEM_WORDS))
        messages: list[dict[str, str]] = [{"role": "system", "content": system}]
        known = 0
        for turn in range(turns):
            pause = source.uniform(0, 2 * _PAUSE) if turn else source.uniform(0, _PAUSE)
            await asyncio.sleep(pause)
            text = f"{number}.{turn} " + " ".join(source.choices(_WORD_LIST, k=_WORDS))
            messages.append({"role": "user", "content": text})
            reply, usage = await self._ask(number, pause, messages)
            computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
            self.run.computed += computed
            self.run.again += max(0, computed - (usage["prompt_tokens"] - known))
            known = usage["prompt_tokens"] + usage["completion_tokens"] - 1
            messages.append({"role": "assistant", "content": reply})

    async def _ask(self, conversation: int, pause: float, messages: list[dict[str, str]]) -> tuple[str, dict[str, Any]]:
        body = {
            "model": self._model,
            "messages": messages,
            "max_tokens": _REPLY,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began, request = time.monotonic(), next(self._numbers)
        chosen = 0
        if self._policy is not None:
            prompt = await self._prompt(conversation, body)
            chosen = self._policy(conversation, prompt, self._model, self.views, self._sent)
            held = self.views[chosen].held
            blocks = max((count for count, block in enumerate(prompt.chain, 1) if block in held), default=0)
            new_tokens = prompt.tokens - blocks * BLOCK_TOKENS
            self._sent.sent(request, self.views[chosen].id, self._model, [prompt], new_tokens)
            self.run.turns.append(
                Turn(
                    conversation=conversation,
                    pause=pause,
                    tokens=prompt.tokens,
                    hashes=pack_hashes(list(prompt.chain)),
                    reply_tokens=_REPLY,
                )
            )
        self.run.requests[chosen] += 1
        first, reply = 0.0, ""
        usage: dict[str, Any] = {}
        try:
            async with self._http.stream("POST", self._url(chosen, _CHAT), json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    chunk = msgspec.json.decode(line[6:])
                    usage = chunk.get("usage") or usage
                    if chunk["choices"] and (piece := chunk["choices"][0]["delta"].get("content")):
                        if not first:
                            first = time.monotonic()
                            self._sent.begun(request)
                        reply += piece
        finally:
            self._sent.ended(request)
        self.run.waits.append((first or time.monotonic()) - began)
        return reply, usage

    async def _prompt(self, conversation: int, body: dict[str, Any]) -> Prompt:
        port = conversation % len(self._ports)
        url = self._url(port, f"/cluster/prompt?path={_CHAT}")
        response = await self._http.post(url, json=body, headers={SECRET_HEADER: SECRET})
        response.raise_for_status()
        (chain,) = msgspec.json.decode(response.content, type=PromptChains).prompts
        return Prompt(chain.tokens, unpack_hashes(chain.hashes))

    def _url(self, number: int, path: str) -> str:
        return f"http://127.0.0.1:{self._ports[number]}{path}"


async def _run(ports: Sequence[int], model: str, policy: Policy | None, conversations: int, turns: int) -> Run:
    async with httpx.AsyncClient(timeout=120.0, trust_env=False, limits=httpx.Limits(max_connections=None)) as http:
        client = Client(http, ports, policy, model)
        channels = []
        if policy is not None:
            channels = [StateChannel(view.host, view.port, SECRET, view.apply, _ignore) for view in client.views]
            async with asyncio.timeout(30):
                while not all(view.takes_requests for view in client.views):
                    await asyncio.sleep(0.05)
        try:
            await asyncio.gather(*(client.converse(number, turns) for number in range(conversations)))
        finally:
            for channel in channels:
                channel.close()
        return client.run


def _ignore(reason: str, drained: bool) -> None:
    """The end of a channel: a request to that replica fails, and with it the benchmark."""


@contextlib.contextmanager
def _replicas(options: Options, number: int, times: int = 1) -> Iterator[tuple[list[int], str]]:
    """So many servers, each ``times`` as large as a replica: their ports, and the model's name."""
    slots, cells, host_mb = (str(size * times) for size in (_SLOTS, _CELLS, _HOST_MB))
    arguments = ("--parallel", slots, "--kv-tokens", cells, "--keep-mb", host_mb, "--ctx", "2048")
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(servers.tailrace(options.model, 1, *arguments, cluster_secret=SECRET, keep_disk_mb="0"))
            for _ in range(number)
        ]
        yield [each.port for each in started], started[0].model


def _measure(options: Options, trace: Path | None = None, *, direct: bool = False) -> Measurements:
    conversations, turns = (6, 2) if options.quick else (_CONVERSATIONS, _TURNS)
    runs: dict[str, Run] = {}
    with _replicas(options, 1, _REPLICAS) as (ports, model):
        runs["one machine"] = asyncio.run(_run(ports, model, round_robin(), conversations, turns))
    with _replicas(options, _REPLICAS) as (ports, model), ingress(ports) as running:
        through = runs[_OURS] = asyncio.run(_run([running.client.port], model, None, conversations, turns))
        through.requests = [_answered(port) for port in ports]
    for name in (*_OTHERS, *(["longest prefix"] if direct else [])):
        with _replicas(options, _REPLICAS) as (ports, model):
            runs[name] = asyncio.run(_run(ports, model, POLICIES[name](), conversations, turns))
    if trace is not None:
        save(trace, sorted(runs[_OTHERS[0]].turns, key=lambda turn: turn.conversation))
    return _figures(runs)


def _answered(port: int) -> int:
    """The requests that the server has answered."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    counts = re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.MULTILINE)
    return round(sum(map(float, counts)))


def _figures(runs: dict[str, Run]) -> Measurements:
    found = Measurements(
        notes=[
            f"{_CONVERSATIONS} conversations of {_TURNS} turns with {_SYSTEMS} system prompts on {_REPLICAS} replicas.",
            "Tokens read again: those of a conversation's earlier turns that were computed once more.",
        ]
    )
    whole = runs["one machine"]
    for name, run in runs.items():
        bound = BOUND if name.startswith("longest prefix") else None
        if run is not whole:
            label = f"{name}: prompt tokens computed ÷ those of one machine"
            ratio = run.computed / whole.computed
            found.figures.append(figure(label, [ratio], bound=bound, is_upper_bound=bound is not None))
        found.figures.append(figure(f"{name}: prompt tokens computed", [run.computed], unit="tokens"))
        found.figures.append(figure(f"{name}: read again", [run.again], unit="tokens"))
        found.figures.append(figure(f"{name}: first token, p50", [run.wait(50)], unit="ms"))
        found.figures.append(figure(f"{name}: first token, p95", [run.wait(95)], unit="ms"))
        if len(run.requests) > 1:
            balance = max(run.requests) / statistics.mean(run.requests)
            found.figures.append(figure(f"{name}: requests of the busiest replica ÷ mean", [balance]))
    return found


BENCHMARK = Benchmark(
    name="cluster_trace",
    question="How much of its prompts does a cluster read again, against one machine with all its memory?",
    measure=_measure,
)


def main() -> None:
    """Measure, print and save, as each benchmark does; with options of its own."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{BENCHMARK.name}", description=__doc__)
    add_options(parser)
    parser.add_argument("--save", type=Path, help="keep the requests as a trace")
    parser.add_argument("--direct", action="store_true", help="add a run of ours without the ingress")
    parsed = parser.parse_args()
    try:
        options = read_options(parsed)
    except TailraceError as error:
        parser.error(str(error))
    measure = partial(_measure, trace=parsed.save, direct=parsed.direct)
    sys.exit(1 if run_and_save([replace(BENCHMARK, measure=measure)], options, parsed.report) else 0)


if __name__ == "__main__":
    main()
