"""Lists of CPUs or NUMA nodes in the kernel's notation: ``0-3,8``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


def parse(text: str) -> tuple[int, ...]:
    """The numbers in ``text``, sorted and without repetitions. Raises ValueError when it isn't such a list."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if not part:
            continue  # The kernel writes an empty set as an empty line.
        first, dash, last = part.partition("-")
        low, high = int(first), int(last if dash else first)
        if high < low:
            raise ValueError(f"{part} runs backwards")
        numbers.update(range(low, high + 1))
    return tuple(sorted(numbers))


def format_cpus(numbers: Iterable[int]) -> str:
    """The shortest list that ``parse`` reads as ``numbers``; ``none`` for no numbers, because people read it."""
    parts: list[str] = []
    for _, group in itertools.groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(parts) or "none"
