"""Measures the time of sampling: µs a step for 8 greedy sequences, µs a sequence for everything else.

    python -m benchmarks.sampling [--vocabularies 49152,262144] [--rounds 15] [--kernels on] [--maxima kept]

The comparison is llama.cpp's own sampler chain on the same rows. Before each turn the eight rows are copied again, as
llama.cpp does at the end of a step, and each is used once. Figures are medians, with the minimum in brackets. "mixed"
interleaves the cases, so each finds the caches as another left them; "in a row" repeats one case. A real step is
between the two.

tailrace's kernel of the output matrix (engine/kernels) records the maxima of each row, so these rows have them, too.
``--maxima none`` measures rows without them, as from llama.cpp's kernel.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness.llama_samplers import LlamaChain
from tailrace.engine.kernels.proofs.row_maxima import row_maxima_of
from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.logits_ops import RowMaxima
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow, Mask
from tailrace.engine.sampling.sampler import Sampler, greedy_tokens, logprobs
from tailrace.generation_params import Sampling

_ROWS = 8
_HISTORY = 1500


def rows(vocabulary: int) -> LogitsRow:
    """Rows like a model's: nearly all tokens are far below the best one, and some hundred are close."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2.0, (_ROWS, vocabulary))
    for number in range(_ROWS):
        logits[number, random.integers(0, vocabulary, 300)] += random.exponential(3.5, 300)
    single: LogitsRow = logits.astype(np.float32)
    return single


def mask(vocabulary: int, fraction: float) -> Mask:
    """A mask that allows that fraction of the tokens."""
    bits = np.random.default_rng(1).random(-(-vocabulary // 32) * 32) < fraction
    bits[7] = True
    words: Mask = np.packbits(bits, bitorder="little").view(np.uint32)
    return words


def cases(logits: LogitsRow) -> dict[str, tuple[int, Callable[[], object]]]:
    """The cases: name → (sequences of one call, call)."""
    vocabulary = logits.shape[1]
    history = np.random.default_rng(2).integers(0, vocabulary, _HISTORY).tolist()
    turn = [0]

    def row() -> LogitsRow:
        turn[0] = (turn[0] + 1) % _ROWS
        chosen: LogitsRow = logits[turn[0]]
        return chosen

    def tailrace(params: Sampling, allowed: Mask | None = None) -> Callable[[], object]:
        sampler = Sampler(params, history)
        for token in history:  # Part of the reply, too.
            sampler.accept(token)
        return lambda: sampler.sample(row(), allowed)

    def llama_cpp(params: Sampling) -> Callable[[], object]:
        chain = LlamaChain(vocabulary, params, history, history)
        return lambda: chain.sample(row())

    plain = Sampling(seed=1)
    chain = Sampling(
        seed=1,
        repeat_penalty=1.1,
        repeat_last_n=-1,
        frequency_penalty=0.2,
        presence_penalty=0.1,
        logit_bias=dict.fromkeys(history[:20], 1.0),
    )
    all_top_p = Sampling(seed=1, top_k=0, min_p=0.0)
    everything = Sampling(seed=1, top_k=0, top_p=1.0, min_p=0.0)
    greedy = Sampling(temperature=0.0)
    whole: dict[str, Any] = {"seed": 1, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    more = {
        "typical_p, and the usual filters": Sampling(seed=1, typical_p=0.9),
        "typical_p over the whole vocabulary": Sampling(**whole, typical_p=0.9),
        "top_n_sigma": Sampling(**whole, top_n_sigma=1.5),
        "XTC, and the usual filters": Sampling(seed=1, xtc_probability=0.5),
        "XTC over the whole vocabulary": Sampling(**whole, xtc_probability=0.5),
        "dynamic temperature, and the usual filters": Sampling(seed=1, dynatemp_range=0.5),
        "mirostat 1": Sampling(seed=1, mirostat=1),
        "mirostat 2": Sampling(seed=1, mirostat=2),
        "min_p, adaptive_p": Sampling(
            seed=1, samplers=("min_p", "temperature", "adaptive_p"), adaptive_target=0.5, min_p=0.02
        ),
        "DRY over 64 tokens, and the usual filters": Sampling(seed=1, dry_multiplier=0.8),
        f"DRY over {_HISTORY} tokens, and the usual filters": Sampling(
            seed=1, dry_multiplier=0.8, dry_penalty_last_n=-1
        ),
        "all of them": Sampling(
            seed=1,
            typical_p=0.9,
            xtc_probability=0.5,
            dynatemp_range=0.5,
            dry_multiplier=0.8,
            repeat_penalty=1.1,
            top_n_sigma=2.0,
        ),
    }
    few, half, nearly_all = (mask(vocabulary, part) for part in (20 / vocabulary, 0.5, 0.98))
    return {
        "8 greedy, a step": (_ROWS, lambda: greedy_tokens(logits)),
        "8 greedy, a step: llama.cpp": (1, llama_cpp(greedy)),
        "temperature, top_k, top_p, min_p": (1, tailrace(plain)),
        "temperature, top_k, top_p, min_p: llama.cpp": (1, llama_cpp(plain)),
        f"the same, penalties ({_HISTORY} tokens), bias": (1, tailrace(chain)),
        f"the same, penalties ({_HISTORY} tokens), bias: llama.cpp": (1, llama_cpp(chain)),
        "top_p over the whole vocabulary": (1, tailrace(all_top_p)),
        "top_p over the whole vocabulary: llama.cpp": (1, llama_cpp(all_top_p)),
        "temperature alone": (1, tailrace(everything)),
        "temperature alone: llama.cpp": (1, llama_cpp(everything)),
        "mask of 20 tokens, greedy": (1, tailrace(greedy, few)),
        "mask of 20 tokens": (1, tailrace(plain, few)),
        "mask of half, greedy": (1, tailrace(greedy, half)),
        "mask of half": (1, tailrace(plain, half)),
        "mask of 98 %, greedy": (1, tailrace(greedy, nearly_all)),
        "mask of 98 %": (1, tailrace(plain, nearly_all)),
        **{name: (1, tailrace(params)) for name, params in more.items()},
        **{f"{name}: llama.cpp": (1, llama_cpp(params)) for name, params in more.items()},
        "log probability": (1, lambda: logprobs(row(), 7, 0)),
        "log probability and top 5": (1, lambda: logprobs(row(), 7, 5)),
        "log probability and top 20": (1, lambda: logprobs(row(), 7, 20)),
    }


def measure(vocabulary: int, rounds: int, only: str, *, mixed: bool, row_maxima: bool) -> dict[str, list[float]]:
    """µs of each turn, for each case with ``only`` in its name.

    ``mixed`` interleaves the cases; otherwise all turns of a case follow each other. ``row_maxima`` gives the sampler
    the maxima of the rows, as the output matrix's kernel does.
    """
    fresh = rows(vocabulary)
    logits = fresh.copy()
    fresh_maxima = row_maxima_of(fresh)
    maxima = fresh_maxima.copy()
    logits_ops.set_row_maxima(
        RowMaxima(logits.ctypes.data, _ROWS, vocabulary, maxima.ctypes.data) if row_maxima else None
    )
    calls = {name: case for name, case in cases(logits).items() if only in name}
    times: dict[str, list[float]] = {name: [] for name in calls}
    turns = list(calls) * rounds
    for name in turns if mixed else sorted(turns, key=turns.index):
        sequences, call = calls[name]
        np.copyto(maxima, fresh_maxima)
        np.copyto(logits, fresh)
        started_at = time.perf_counter()
        for _ in range(_ROWS // sequences):
            call()
        seconds = time.perf_counter() - started_at
        times[name].append(1e6 * seconds / (1 if "a step" in name else _ROWS))
    logits_ops.set_row_maxima(None)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", default="49152,262144")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--kernels", default="on", choices=("on", "avx512", "avx2", "off"), help="passes over rows in C, or in NumPy"
    )
    parser.add_argument(
        "--maxima", default="kept", choices=("kept", "none"), help="row maxima from the output kernel, or none"
    )
    parser.add_argument("--only", default="", help="cases with this in their name")
    options = parser.parse_args()
    logits_ops.enable_native(options.kernels)
    row_maxima = options.maxima == "kept"
    print(f"passes over rows in C: {logits_ops.status()}; maxima: {options.maxima}")
    for vocabulary in (int(size) for size in options.vocabularies.split(",")):
        print(f"{f'vocabulary {vocabulary}':58} {'mixed':>18} {'in a row':>18}")
        mixed, in_a_row = (
            measure(vocabulary, options.rounds, options.only, mixed=mixed, row_maxima=row_maxima)
            for mixed in (True, False)
        )
        for name in mixed:
            both = "".join(f"{median(times):11.1f} ({min(times):6.1f})" for times in (mixed[name], in_a_row[name]))
            print(f"  {name:56}{both}")


if __name__ == "__main__":
    main()
