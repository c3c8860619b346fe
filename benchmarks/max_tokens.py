"""Whether max_tokens costs anything: the same greedy reply asked for with a small limit and with the whole context.

The reply ends by itself below the small limit, so both sides do the same work; the ratio of their times should be 1.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness import servers
from benchmarks.harness.pairs import in_turns, ratios
from benchmarks.harness.part import Findings, NotHere, Options, Part, standalone
from benchmarks.harness.results import figure
from tailrace.loadtest.client import BenchClient
from tailrace.loadtest.load import Ask, StreamTiming
from tailrace.models.model_header import read_facts

_SMALL = 64
_BOUND = 1.01
#: The first that ends below the limit with this model is asked. Which do depends on rounding, hence on the CPU.
_PROMPTS = (
    "What is the capital of France?",
    "Name three colours of a rainbow.",
    "Write one sentence about the sea.",
    "Name a fruit and its colour.",
    "Describe a cat in one sentence.",
    "Why is the sky blue? Answer in one sentence.",
    "Say hello in one short sentence.",
    "How many days are in a week?",
)


def _measure(options: Options) -> Findings:
    with servers.tailrace(options.model, options.threads) as client:
        prompt, first = _short_reply(client)
        whole = (read_facts(options.model).context or 8192) - first.prompt_tokens

        def side(limit: int) -> Callable[[int], float]:
            def ask(_: int) -> float:
                timing = _ask(client, prompt, limit)
                assert timing.text == first.text, "a greedy reply has changed with max_tokens"
                return timing.tokens[-1] - timing.asked

            return ask

        # A reply takes a fraction of a second, so there can be many.
        times = in_turns({"small": side(_SMALL), "whole": side(whole)}, 6 * options.turns, warm_up=2)
    return Findings(
        figures=[
            figure(
                f"time with max_tokens {whole} ÷ with {_SMALL}",
                ratios(times["whole"], times["small"]),
                bound=_BOUND,
                at_most=True,
            )
        ],
        notes=[f"{first.reply_tokens} tokens answer {prompt!r}; one stream; the text is the same with both limits."],
    )


def _short_reply(client: BenchClient) -> tuple[str, StreamTiming]:
    for prompt in _PROMPTS:
        # Twice: what is known of a prompt isn't read again, and one token is rounded otherwise than twelve.
        _ask(client, prompt, _SMALL)
        timing = _ask(client, prompt, _SMALL)
        if 16 <= timing.reply_tokens < _SMALL:
            return prompt, timing
    raise NotHere(f"this model gives none of the prompts a reply of 16 to {_SMALL} tokens")


def _ask(client: BenchClient, prompt: str, limit: int) -> StreamTiming:
    (timing,) = client.exchange([Ask(messages=[{"role": "user", "content": prompt}], max_tokens=limit, exact=False)])
    return timing


PART = Part("max_tokens", "Does a large max_tokens cost anything?", _measure)

if __name__ == "__main__":
    standalone(PART)
