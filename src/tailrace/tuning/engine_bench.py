"""Runs the engine loop under a benchmark's load, without HTTP, a second process or a socket.

``tailrace bench --compare`` compares the API with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from pathlib import Path

import msgspec

from tailrace.chat.chat_format import ChatFormat
from tailrace.chat.detokenize import Detokenizer
from tailrace.engine.backends.base import Backend
from tailrace.engine.load import load_llama, make_loop
from tailrace.engine.submission import prepare_sequence
from tailrace.errors import TailraceError
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.protocol import Refused, Submit
from tailrace.settings import Settings


class EngineStreamTiming(msgspec.Struct):
    """One stream's times in seconds, with the keys of the load test's ``StreamTiming``."""

    sent_at: float
    token_times: list[float]
    text: str
    prompt_tokens: int


class EngineTurn:
    """A loaded model that computes rounds of concurrent greedy replies."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._backend: Backend = load_llama(path, settings)
        self._loop = make_loop(self._backend, settings)
        self._format = ChatFormat(self._backend.info, self._backend.vocabulary)
        self._next_id = 0

    def run(self, prompts: Seq[str], output_tokens: int) -> list[EngineStreamTiming]:
        """Compute a reply of exactly ``output_tokens`` tokens to each user message, all concurrently.

        Raises TailraceError when the engine refuses or fails one.
        """
        first = self._next_id
        self._next_id += len(prompts)
        timed: list[EngineStreamTiming] = []
        tokens: list[list[int]] = [[] for _ in prompts]
        for number, prompt in enumerate(prompts):
            sent_at = time.perf_counter()
            text = self._format.template.render([{"role": "user", "content": prompt}])
            submit = Submit(
                id=first + number,
                prompt=text,
                params=GenerationParams(max_tokens=output_tokens, sampling=Sampling(temperature=0.0), ignore_eos=True),
            )
            sequence = prepare_sequence(self._backend, submit)
            if isinstance(sequence, Refused):
                raise TailraceError(sequence.message)
            self._loop.inbox.put(sequence)
            timed.append(EngineStreamTiming(sent_at, [], "", sequence.prompt_length))
        while self._loop.has_work:
            self._loop.take()
            step = self._loop.step()
            now = time.perf_counter()
            if step is not None:
                if step.failed:
                    raise TailraceError(step.failed[0].message)
                for identity, token in zip(step.ids, step.tokens, strict=True):
                    timed[identity - first].token_times.append(now)
                    tokens[identity - first].append(token)
        for entry, chosen in zip(timed, tokens, strict=True):
            detokenizer = Detokenizer(self._format.vocabulary)
            entry.text = "".join(detokenizer.feed(token) for token in chosen)
        return timed
