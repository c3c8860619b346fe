"""Replays an agent's conversation and counts which prompt tokens are read again: no turn may read everything again.

    python -m benchmarks.agent_trace

The trace (``harness/agent_script``) has tool results, replies made anew, edits of the last message, thinking that later
turns leave out, and two branches that take turns. The server gets all messages twice: as they are, and told not to
reuse anything (``cache_prompt`` false). The greedy replies have to be equal.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
from typing import Any

import msgspec

from benchmarks.harness import servers
from benchmarks.harness.agent_script import AgentScript
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, Unavailable, run_alone
from benchmarks.harness.results import figure
from benchmarks.llama_server import peer_server
from benchmarks.synthetic import synthetic
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import BenchRequest

_TURNS = 200
_OPENING = 800  #: words of the system prompt
_REPLY = 12
#: A turn may read so much of its new tokens, and the distance of two checkpoints besides.
_BOUND = 1.05
_DISTANCE = 512
#: A turn that reads more than this part of a long prompt again, although little of it is new, has lost its prefix.
_FULL_READ = 0.5


class Turn(msgspec.Struct, frozen=True):
    """The tokens of one request's prompt: all, those that no earlier turn had, and those that the server read."""

    kind: str
    prompt: int
    new: int
    read: int
    text: str

    @property
    def is_long_read(self) -> bool:
        """Whether the server read more than the new tokens and what lies behind a checkpoint."""
        return self.read > _BOUND * self.new + _DISTANCE

    @property
    def is_full_read(self) -> bool:
        """Whether the server read most of the prompt again."""
        return self.read - self.new > _FULL_READ * self.prompt


def replay(client: BenchClient, tokens_of: BenchClient, script: AgentScript, turns: int) -> list[Turn]:
    """Send the turns of the trace one after the other. ``tokens_of``: the tailrace server that counts tokens."""
    known: list[list[int]] = []
    done: list[Turn] = []
    for kind in script.kinds(turns):
        messages = script.next_messages(kind)
        prompt = _tokens(tokens_of, messages)
        (timing,) = client.exchange([BenchRequest(messages=messages, max_tokens=_REPLY)])
        reused = max((common_prefix(tokens, prompt) for tokens in known), default=0)
        # The prompt's last token is always computed: the reply's first token comes from it.
        new = max(1, len(prompt) - reused)
        done.append(Turn(kind, len(prompt), new, timing.prompt_tokens - timing.cached_tokens, timing.text))
        script.add_reply(timing.text)
        # A reply's last token is chosen and never computed.
        known.append(prompt + _tokens(tokens_of, timing.text)[:-1])
    return done


def read_anew(client: BenchClient, script: AgentScript, replies: list[Turn], turns: int) -> int:
    """How many greedy replies are equal where nothing is reused. The messages have ``replies``' texts."""
    equal = 0
    for kind, turn in zip(script.kinds(turns), replies, strict=True):
        request = BenchRequest(
            messages=script.next_messages(kind), max_tokens=_REPLY, extra_fields={"cache_prompt": False}
        )
        (timing,) = client.exchange([request])
        equal += timing.text == turn.text
        script.add_reply(turn.text)
    return equal


def _tokens(client: BenchClient, text: list[dict[str, Any]] | str) -> list[int]:
    """The tokens of a conversation as the server's template writes it, or of a reply's text."""
    body = {"content": text} if isinstance(text, str) else {"messages": text}
    request = urllib.request.Request(
        f"http://127.0.0.1:{client.port}/tokenize", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        tokens: list[int] = json.load(response)["tokens"]
    return tokens


def _measure(options: Options) -> Measurements:
    # Which tokens are read doesn't depend on a model's size.
    model = synthetic("tiny-qwen35", options.model)
    turns, opening = (20, 100) if options.quick else (_TURNS, _OPENING)
    found = Measurements(
        notes=[
            f"{turns} turns of one agent, replies of {_REPLY} tokens, a system prompt of about {opening} words; "
            f"{model.name}, a hybrid with random weights."
        ]
    )
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(servers.tailrace(model, options.threads))
        runs = {"tailrace": replay(client, client, AgentScript(opening), turns)}
        equal = read_anew(client, AgentScript(opening), runs["tailrace"], turns)
        try:
            peer = stack.enter_context(peer_server(Options(model=model, threads=options.threads)))
            runs["llama-server"] = replay(peer, client, AgentScript(opening), turns)
        except Unavailable as error:
            found.notes.append(f"{error}: nothing to compare with.")
    for name, done in runs.items():
        bound = 0 if name == "tailrace" else None
        counts = {
            f"more than {_BOUND} × their new tokens and {_DISTANCE}": sum(turn.is_long_read for turn in done),
            "most of their prompt again": sum(turn.is_full_read for turn in done),
        }
        found.figures += [
            figure(f"{name}: turns that read {what}", [count], unit="turns", bound=bound, is_upper_bound=True)
            for what, count in counts.items()
        ]
        read, new = sum(turn.read for turn in done), sum(turn.new for turn in done)
        most = max(turn.read - turn.new for turn in done)
        found.figures += [
            figure(f"{name}: prompt tokens read ÷ new ones", [read / new]),
            figure(f"{name}: most tokens read again in one turn", [most], unit="tokens"),
        ]
    found.figures.append(figure("tailrace: replies that are the same without reuse", [equal / turns], bound=1.0))
    return found


BENCHMARK = Benchmark("agent_trace", "How much of its prompts is read again during an agent's work?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
