"""Measures prefix reuse: the time to the first token of a conversation's second turn, over the first turn's."""

from __future__ import annotations

import contextlib
import statistics
from functools import partial
from typing import Any

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, Unavailable, run_alone
from benchmarks.harness.paired_runs import run_interleaved
from benchmarks.harness.results import Curve, Plot, figure
from benchmarks.llama_server import peer_server
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import BenchRequest, LoadProfile

_PROMPT = 2000
_TURNS = 4
_REPLY = 32
_BOUND = 0.10
_QUESTIONS = ("Go on.", "Why is that so?", "Tell me more about the people in it.", "How does it end?")


def converse(
    client: BenchClient, turn: int, prompt_tokens: int, *, others: int = 0, strips_thinking: bool = False
) -> list[float]:
    """Milliseconds to the first token of each turn of one conversation, with ``others`` requests between two turns.

    ``strips_thinking``: later turns have the second half of a reply's words, as templates of reasoning models do it.
    """
    (opening,) = LoadProfile(streams=1, prompt_tokens=prompt_tokens, output_tokens=_REPLY).prompts(turn)
    messages: list[dict[str, Any]] = [{"role": "user", "content": opening}]
    waits: list[float] = []
    for number in range(_TURNS):
        (timing,) = client.exchange([BenchRequest(messages=messages, max_tokens=_REPLY)])
        waits.append(1e3 * timing.first_token_seconds)
        words = timing.text.split(" ")
        kept = " ".join(words[len(words) // 2 :]) if strips_thinking else timing.text
        messages = [
            *messages,
            {"role": "assistant", "content": kept},
            {"role": "user", "content": _QUESTIONS[number % len(_QUESTIONS)]},
        ]
        if others:
            client.run(
                LoadProfile(streams=others, prompt_tokens=200, output_tokens=16), 10_000 + _TURNS * turn + number
            )
    return waits


def shared_system(client: BenchClient, turn: int, prompt_tokens: int) -> float:
    """The time to the first token of the second question under one system prompt, over that of the first question."""
    (text,) = LoadProfile(streams=1, prompt_tokens=prompt_tokens, output_tokens=_REPLY).prompts(20_000 + turn)
    waits: list[float] = []
    for question in _QUESTIONS[:2]:
        messages = [{"role": "system", "content": text}, {"role": "user", "content": question}]
        (timing,) = client.exchange([BenchRequest(messages=messages, max_tokens=_REPLY)])
        waits.append(timing.first_token_seconds)
    return waits[1] / waits[0]


def _measure(options: Options) -> Measurements:
    size = 300 if options.quick else _PROMPT
    turns = min(options.turns, 5)
    found = Measurements(notes=[f"An opening of about {size} tokens, replies of {_REPLY}, short questions after it."])
    with contextlib.ExitStack() as stack:
        tailrace = stack.enter_context(servers.tailrace(options.model, options.threads))
        sides = {
            "tailrace": lambda turn: converse(tailrace, turn, size),
            "tailrace, without thoughts": lambda turn: converse(tailrace, 2000 + turn, size, strips_thinking=True),
            "tailrace, 8 other requests between turns": lambda turn: converse(tailrace, 1000 + turn, size, others=8),
        }
        try:
            llama_server = stack.enter_context(peer_server(options))
            sides["llama-server"] = lambda turn: converse(llama_server, turn, size)
        except Unavailable as error:
            found.notes.append(f"{error}: nothing to compare with.")
        runs = run_interleaved(sides, turns)
        shared = run_interleaved({"tailrace": partial(shared_system, tailrace, prompt_tokens=size)}, turns, warm_up=0)
    for name, waits in runs.items():
        bound = None if name == "llama-server" else _BOUND
        relative = [wait[1] / wait[0] for wait in waits]
        found.figures.append(figure(f"{name}: TTFT of turn 2 ÷ turn 1", relative, bound=bound, is_upper_bound=True))
        found.figures.append(figure(f"{name}: TTFT of turn 1", [wait[0] for wait in waits], unit="ms"))
        found.figures.append(figure(f"{name}: TTFT of turn 2", [wait[1] for wait in waits], unit="ms"))
    found.figures.append(
        figure("tailrace: TTFT of the second question under one system prompt ÷ of the first", shared["tailrace"])
    )
    turn_names = [f"turn {number + 1}" for number in range(_TURNS)]
    curves = [
        Curve(
            label=name,
            x=turn_names,
            y=[statistics.median(wait[number] for wait in waits) for number in range(_TURNS)],
            low=[min(wait[number] for wait in waits) for number in range(_TURNS)],
            high=[max(wait[number] for wait in waits) for number in range(_TURNS)],
        )
        for name, waits in runs.items()
    ]
    found.plots.append(
        Plot(
            title="Prefix reuse: a conversation that begins with a long text",
            x="",
            y="time to first token, ms",
            curves=curves,
            kind="bars",
            logarithmic=True,
        )
    )
    return found


BENCHMARK = Benchmark("conversation", "What does a conversation's next turn wait for its first token?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
