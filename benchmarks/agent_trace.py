"""Replays an agent's conversation and counts which prompt tokens are read again: no turn may read everything again.

    python -m benchmarks.agent_trace

The trace (``harness/agent_script``) has tool results, replies made anew, edits of the last message, thinking that later
turns leave out, and two branches that take turns. The server gets all messages twice: as they are, and told not to
reuse anything (``cache_prompt`` false). The greedy replies have to be equal. So it has one compute thread: with more, a
prompt's rounding depends on its chunks, which may decide a tie.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness import servers
from benchmarks.harness.agent_script import AgentScript
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, Unavailable, run_alone
from benchmarks.harness.results import Figure, figure
from benchmarks.llama_server import peer_server
from benchmarks.synthetic import synthetic
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import BenchRequest

#: Hybrids and a recurrent model, with the turns of each: a run without reuse takes time by their square.
_MODELS = {"tiny-qwen35": 200, "tiny-lfm2": 100, "tiny-granite-hybrid": 100, "tiny-mamba2": 100}
_OPENING = 800  #: words of the system prompt
_REPLY = 12
#: A turn may read so much of its new tokens, and the distance of two checkpoints besides. The trace's messages are
#: short, and checkpoints are at their borders.
_BOUND = 1.05
_DISTANCE = 128
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
    found = Measurements(
        notes=[
            f"One agent with replies of {_REPLY} tokens and a system prompt of about {_OPENING} words; models with "
            "random weights, one compute thread."
        ]
    )
    models = dict.fromkeys(_MODELS, 20) if options.quick else _MODELS
    for name, turns in models.items():
        # Which tokens are read doesn't depend on a model's size.
        _measure_model(found, synthetic(name, options.model), f"{name}, {turns} turns", turns)
    try:
        _measure_peer(found, synthetic("tiny-qwen35", options.model), models["tiny-qwen35"])
    except Unavailable as error:
        found.notes.append(f"{error}: nothing to compare with.")
    return found


def _measure_model(found: Measurements, model: Path, what: str, turns: int) -> None:
    with servers.tailrace(model, 1) as client:
        done = replay(client, client, AgentScript(_OPENING), turns)
        equal = read_anew(client, AgentScript(_OPENING), done, turns)
    counts = {
        f"more than {_BOUND} × their new tokens and {_DISTANCE}": sum(turn.is_long_read for turn in done),
        "most of their prompt again": sum(turn.is_full_read for turn in done),
    }
    found.figures += [
        figure(f"{what}: turns that read {which}", [count], unit="turns", bound=0, is_upper_bound=True)
        for which, count in counts.items()
    ]
    found.figures += _read_figures(what, done)
    found.figures.append(figure(f"{what}: replies that are the same without reuse", [equal / turns], bound=1.0))


def _measure_peer(found: Measurements, model: Path, turns: int) -> None:
    """The same trace with llama-server. Raises Unavailable."""
    options = Options(model=model, threads=1)
    with peer_server(options) as peer, servers.tailrace(model, 1) as client:
        found.figures += _read_figures(
            "llama-server, as it reports it", replay(peer, client, AgentScript(_OPENING), turns)
        )


def _read_figures(what: str, done: list[Turn]) -> list[Figure]:
    read, new = sum(turn.read for turn in done), sum(turn.new for turn in done)
    most = max(turn.read - turn.new for turn in done)
    return [
        figure(f"{what}: prompt tokens read ÷ new ones", [read / new]),
        figure(f"{what}: most tokens read again in one turn", [most], unit="tokens"),
    ]


BENCHMARK = Benchmark("agent_trace", "How much of its prompts is read again during an agent's work?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
