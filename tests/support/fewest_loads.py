"""The fewest loads with which requests can be served, by a schedule that knows the future: dynamic programming.

All models have the same size, and ``capacity`` of them are loaded at a time. Time is divided into steps, each as long
as a swap and the shortest reply together, so at most ``capacity`` models serve within one. A request may begin in each
step that its allowed time touches. Both favour this schedule: no real one, however clever, has fewer loads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NEVER = np.uint16(50_000)

Table = NDArray[np.uint16]
Resident = tuple[int, ...]


class Wanted(NamedTuple):
    """A request that comes at ``arrival`` for a model, and has to begin until ``latest``, in seconds."""

    arrival: float
    latest: float
    model: str


def fewest_loads(requests: Iterable[Wanted], capacity: int, step: float) -> int:
    """The loads, those of the first models included. ``step``: the shortest time, in seconds, between the begins of
    two requests for different models in one place.
    """
    asked = sorted(requests)
    names = sorted({request.model for request in asked})
    if len(names) <= capacity:
        return len(names)
    by_step: list[dict[int, int]] = [{} for _ in range(int(asked[-1].arrival / step) + 1)]
    for request in asked:
        begun, model = int(request.arrival / step), names.index(request.model)
        more = int(request.latest / step) - begun
        by_step[begun][model] = min(more, by_step[begun].get(model, more))
    longest = max(max(step.values(), default=0) for step in by_step)
    return _Schedule(len(names), capacity, longest).fewest(by_step)


class _Schedule:
    """For each set of loaded models a table: the fewest loads by the steps that each other model can still be without;
    the last place is for one that isn't waited for.
    """

    def __init__(self, models: int, capacity: int, longest: int) -> None:
        self._sets: list[Resident] = list(itertools.combinations(range(models), capacity))
        self._others = {loaded: [m for m in range(models) if m not in loaded] for loaded in self._sets}
        shape = (longest + 2,) * (models - capacity)
        self._tables: dict[Resident, Table] = {loaded: np.full(shape, _NEVER) for loaded in self._sets}
        for table in self._tables.values():
            table[(-1,) * len(shape)] = capacity
        self._capacity = capacity

    def fewest(self, by_step: Sequence[Mapping[int, int]]) -> int:
        """See ``fewest_loads``; a step has the models that are asked for in it, and in how many steps at most each has
        to be there.
        """
        for asked in by_step:
            self._swap()
            self._wait(asked)
        return min(int(self._with_the_rest(table).min()) for table in self._tables.values())

    def _with_the_rest(self, table: Table) -> Table:
        """The loads in all: what waits at the end needs a load for each model."""
        waiting: Table = (np.indices(table.shape) < table.shape[0] - 1).sum(axis=0, dtype=np.uint16)
        return table + waiting

    def _swap(self) -> None:
        """Allow each loaded model to be swapped for another one, up to all of them in one step."""
        for _ in range(self._capacity):
            before = {loaded: table.copy() for loaded, table in self._tables.items()}
            for loaded, table in before.items():
                for leaving, entering in itertools.product(loaded, self._others[loaded]):
                    target = tuple(sorted({*loaded, entering} - {leaving}))
                    fewest = table.min(axis=self._others[loaded].index(entering)) + np.uint16(1)
                    entry = np.moveaxis(self._tables[target], self._others[target].index(leaving), 0)[-1:]
                    np.minimum(entry, fewest, out=entry)

    def _wait(self, asked: Mapping[int, int]) -> None:
        """A step passes. A model that is waited for can be missing for one step less."""
        for loaded, table in self._tables.items():
            for axis, model in enumerate(self._others[loaded]):
                before = np.moveaxis(table, axis, 0)
                after = np.full_like(before, _NEVER)
                after[-1] = before[-1]
                after[:-2] = before[1:-1]
                if (steps := asked.get(model)) is not None:
                    # The earliest time counts. A request that has to begin in this step isn't served any more.
                    late = after[steps:].min(axis=0, keepdims=True)
                    after[steps:] = _NEVER
                    if steps:
                        np.minimum(after[steps - 1 : steps], late, out=after[steps - 1 : steps])
                table = np.moveaxis(after, 0, axis)
            self._tables[loaded] = table
