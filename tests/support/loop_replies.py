"""Greedy replies of the engine loop on the real model, and how far each is from a true greedy decode of its prompt."""

from __future__ import annotations

from typing import Any

from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.prompt_text import PromptText
from tailrace.protocol import Failed, Finished, Submit
from teacher_forcing import shortfalls


class Replies:
    """Runs sequences on a loop of its own and collects their tokens."""

    def __init__(self, backend: LlamaBackend, **options: Any) -> None:
        """``options`` are the loop's, where they differ."""
        usual = {"prefill_chunk": 128, "step_seconds": 0.05, "host_cache_tokens": 4000}
        self.backend = backend
        self.loop = EngineLoop(backend, **{**usual, **options})
        self.texts: dict[int, str] = {}
        self.prompts: dict[int, list[int]] = {}
        self.tokens: dict[int, list[int]] = {}
        self.cached: dict[int, int] = {}
        self.finished: dict[int, Finished] = {}
        self.failed: dict[int, Failed] = {}

    def ask(self, identity: int, text: str, max_tokens: int | None = 48, *, ignore_eos: bool = False) -> None:
        prompt = PromptText(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")
        submit = Submit(
            id=identity,
            prompt=prompt,
            params=GenerationParams(max_tokens=max_tokens, ignore_eos=ignore_eos, sampling=Sampling(temperature=0.0)),
        )
        sequence = prepare_sequence(self.backend, submit)
        assert isinstance(sequence, Sequence)
        self.texts[identity] = text
        self.prompts[identity] = list(sequence.tokens)
        self.tokens[identity] = []
        self.loop.inbox.put(sequence)

    def ask_next(self, identity: int, earlier: int, text: str) -> None:
        """The turn after ``earlier``, whose reply is complete."""
        said = b"".join(self.backend.vocabulary[token] for token in self.tokens[earlier]).decode()
        turns = f"{self.texts[earlier]}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>\n<|im_start|>user\n{text}"
        self.ask(identity, turns)

    def step(self) -> None:
        self.loop.take()
        step = self.loop.step()
        if step is not None:
            for identity, token in zip(step.ids, step.tokens, strict=True):
                self.tokens[identity].append(token)
            self.cached.update({started.id: started.cached_tokens for started in step.started})
            self.finished.update({finished.id: finished for finished in step.finished})
            self.failed.update({failed.id: failed for failed in step.failed})

    def finish(self) -> None:
        while self.loop.has_work:
            self.step()

    def worst_shortfall(self) -> float:
        """How far any chosen token was from the best one of its prompt alone."""
        self.backend.reset()
        return max(
            max(shortfalls(self.backend, prompt, self.tokens[identity])) for identity, prompt in self.prompts.items()
        )
