"""Whether max_tokens costs anything: the same greedy reply asked for with a small and a huge limit, in pairs.

    python benchmarks/max_tokens.py http://127.0.0.1:8000 [--pairs 20] [--small 128] [--large 8000]

The reply ends by itself below the small limit, so both sides do the same work; the ratio of their times should be 1.
"""

from __future__ import annotations

import argparse
import statistics
import time

from openai import OpenAI

PROMPT = "Explain what a rainbow is in one short paragraph."


def ask(client: OpenAI, model: str, max_tokens: int) -> tuple[float, str, int]:
    """Seconds, text and tokens of one reply."""
    begun = time.perf_counter()
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": PROMPT}],
        temperature=0,
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, tokens = "", 0
    for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
    return time.perf_counter() - begun, text, tokens


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="none")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--small", type=int, default=128)
    parser.add_argument("--large", type=int, default=8000)
    options = parser.parse_args()
    client = OpenAI(base_url=f"{options.url}/v1", api_key=options.key)
    model = client.models.list().data[0].id
    ratios: list[float] = []
    # The first reply finds its prompt unread, which is work and rounding that the others don't have.
    _, _, tokens = ask(client, model, options.large)
    if tokens >= options.small:
        raise SystemExit(f"the reply has {tokens} tokens: raise --small")
    for turn in range(options.pairs):
        limits = [options.small, options.large] if turn % 2 else [options.large, options.small]
        results = {limit: ask(client, model, limit) for limit in limits}
        if results[options.small][1] != results[options.large][1]:
            raise SystemExit(f"the replies differ:\n{results[options.small][1]!r}\n{results[options.large][1]!r}")
        ratios.append(results[options.large][0] / results[options.small][0])
    print(f"replies of {tokens} tokens, {len(ratios)} pairs")
    print(f"time with max_tokens {options.large} / with {options.small}: median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
