"""What checkpoints cost a prompt and a reply of a model whose memory can't be cut, in pairs.

    python -m benchmarks.checkpoint_cost [NAME] [--turns 6] [--prompt 2000]

A figure is the CPU time with checkpoints ÷ without. Both sides are the engine's loop in this process, on the same
loaded model and one thread. Requests alternate between them, so the machine's speed changes little within a pair. The
prompt is a conversation: its messages end with control tokens, where checkpoints are taken.

The model is one of benchmarks.synthetic, or a path.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from benchmarks.harness.benchmark import table
from benchmarks.harness.results import figure
from benchmarks.synthetic import SHAPES, synthetic
from tailrace.engine.backends.base import Backend
from tailrace.engine.load import load_llama
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.models.model_reference import locate_model
from tailrace.observe import logs
from tailrace.protocol import Submit
from tailrace.settings import STARTER_MODEL, Settings

#: Tokens of a message, and of a reply.
_MESSAGE = 200
_REPLY = 128
#: Prompts have no token in common with this model's special ones.
_FIRST_TOKEN = 1000
#: Memory for checkpoints: no one is dropped.
_BYTES = 2 << 30


def _request(backend: Backend, number: int, prompt_tokens: int) -> Sequence:
    end = min(backend.end_tokens)
    prompt = [
        end if place % _MESSAGE == _MESSAGE - 1 else _FIRST_TOKEN + (7919 * number + 104_729 * place) % 40_000
        for place in range(prompt_tokens)
    ]
    params = GenerationParams(max_tokens=_REPLY, ignore_eos=True, sampling=Sampling(temperature=0.0))
    sequence = prepare_sequence(backend, Submit(id=number, prompt=prompt, params=params))
    assert isinstance(sequence, Sequence), "the engine refuses the prompt"
    return sequence


def _seconds(backend: Backend, settings: Settings, number: int, prompt: int, *, size: int) -> tuple[float, float, int]:
    """CPU seconds of a prompt and of its reply, and checkpoints that were taken, with ``size`` bytes for them."""
    backend.reset()
    loop = EngineLoop(
        backend,
        prefill_chunk=settings.prefill_chunk,
        step_seconds=1.0,
        host_cache_tokens=0,
        checkpoint_bytes=size,
    )
    sequence = _request(backend, number, prompt)
    loop.inbox.put(sequence)
    began = time.process_time()
    first = 0.0
    while loop.has_work:
        loop.take()
        loop.step()
        if not first and sequence.generated:
            first = time.process_time()
    checkpoints = loop._cache.checkpoints
    taken = 0 if checkpoints is None else len(checkpoints.prefixes(sequence.tokens))
    return first - began, time.process_time() - first, taken


def main() -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint_cost", description="Cost of checkpoints.")
    parser.add_argument("model", nargs="?", default="qwen35-small", help="of benchmarks.synthetic, or a path")
    parser.add_argument("--turns", type=int, default=6, help="pairs, after one to warm up [6]")
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of the prompt [2000]")
    options = parser.parse_args()
    logs.configure("checkpoint_cost", level="warning", form="console")
    named = options.model in SHAPES
    path = synthetic(options.model, locate_model(STARTER_MODEL).path) if named else Path(options.model)
    settings = Settings(ctx=options.prompt + 2 * _REPLY, parallel=1, threads=1, threads_prefill=1)
    backend = load_llama(path, settings)
    assert backend.rollback.by_checkpoints, "this model needs no checkpoints"
    prompts, replies, counts = [], [], set()
    for turn in range(1 + options.turns):
        sides = (_BYTES, 0) if turn % 2 else (0, _BYTES)
        found = {size: _seconds(backend, settings, turn, options.prompt, size=size) for size in sides}
        if turn:
            prompts.append(found[_BYTES][0] / found[0][0])
            replies.append(found[_BYTES][1] / found[0][1])
            counts.add(found[_BYTES][2])
    rows = [
        figure(f"a prompt of {options.prompt} tokens, with checkpoints ÷ without", prompts),
        figure(f"a reply of {_REPLY} tokens, with checkpoints ÷ without", replies),
    ]
    Console().print(table(rows))
    megabytes = backend.rollback.checkpoint_bytes / 1e6
    print(f"{'/'.join(map(str, sorted(counts)))} checkpoints of {megabytes:.1f} MB")
    backend.close()


if __name__ == "__main__":
    main()
