"""Which models are loaded, which are unloaded, and whose requests begin. Pure: facts and a time in, a decision out.

The rules, which docs/many-models.md has in plain words:

- What fits is loaded at once, the model with the oldest waiting request first, ``MAX_LOADS`` at a time.
- What doesn't fit takes the memory of others: of idle ones, the least recently used first, and no more than it needs.
  Pinned models stay. A model with running requests stays until they have ended.
- A worker has one engine at a time. A model that needs a worker takes it from the model that has it, as memory.
- A loaded model whose memory is waited for has a turn, from the time when both are there: the loaded model, and the
  waiting request. Its own requests begin until the turn ends, as many as its engines run at a time. Then they wait, and
  the running ones end.
- A model that became idle a moment ago is kept for its next request, as an anticipatory disk scheduler waits for the
  next read of a process: an agent sends a request right after a reply. Its turn's end ends this, too.
- A model that can never fit has its requests refused at once.

So a request waits at most, for its model and for each model that is waited for longer: a turn, the longest running
reply, an unload and a load. No model is passed by a younger one that needs its memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tailrace.machine.plan_wording import memory_size
from tailrace.serving.model_load import ModelLoad

#: Models that load at the same time: they share the disk, and one that hangs must not keep all others waiting.
MAX_LOADS = 2


@dataclass
class Decision:
    """The decisions for now. All names are of models."""

    begin: dict[str, int] = field(default_factory=dict)  #: how many of a loaded model's waiting requests begin
    load: list[str] = field(default_factory=list)
    unload: list[str] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)  #: models whose waiting requests can't be served, and why not
    wanted: set[str] = field(default_factory=set)  #: loaded models whose memory is waited for
    draining: set[str] = field(default_factory=set)  #: those of them whose new requests wait
    decide_at: float = math.inf  #: when to decide again, if nothing happens before


def decide(models: Sequence[ModelLoad], memory: int, now: float) -> Decision:
    """The decisions at the time ``now`` for models that may take ``memory`` bytes together."""
    decision = Decision()
    _refuse(models, memory, now, decision)
    _expire(models, now, decision)
    wanted = [model for model in models if model.waits and not model.is_present and model.name not in decision.refuse]
    wanted.sort(key=lambda model: (model.oldest, model.name))
    _Memory(models, memory, now, decision).serve(wanted)
    for model in models:
        if model.phase == "serving" and model.name not in {*decision.draining, *decision.unload, *decision.refuse}:
            count = len(model.waiting) if model.name not in decision.wanted else model.free_places
            if count and model.waiting:
                decision.begin[model.name] = min(count, len(model.waiting))
    return decision


def why_never_loaded(model: ModelLoad, models: Sequence[ModelLoad], memory: int) -> str | None:
    """Why the model can never be loaded beside the pinned ones, with the numbers; None where it can."""
    stay = [other for other in models if other is not model and other.pinned and other.is_present]
    for other in stay:
        if shared := sorted(model.workers & other.workers):
            return (
                f"The model '{model.name}' needs the worker {shared[0]}, which the pinned model '{other.name}' has. A "
                "worker has one model at a time: name another one in devices."
            )
    pinned = sum(other.need for other in stay)
    if model.need <= memory - pinned:
        return None
    beside = f", of which pinned models take {memory_size(pinned)}" if pinned else ""
    return (
        f"The model '{model.name}' takes {memory_size(model.need)} of memory, and the loaded models may take "
        f"{memory_size(memory)}{beside}. Serve a smaller model, a smaller format or a smaller ctx, or raise models_mb."
    )


def _refuse(models: Sequence[ModelLoad], memory: int, now: float, decision: Decision) -> None:
    """Refuse requests for models that can't be loaded, or couldn't a moment ago."""
    for model in models:
        if not model.waits or model.phase in ("starting", "stopping"):
            continue
        if (why := why_never_loaded(model, models, memory)) is not None:
            decision.refuse[model.name] = why
        elif model.phase == "failed" and now < model.retry_at:
            decision.refuse[model.name] = f"The model '{model.name}' can't be loaded: {model.reason}"


def _expire(models: Sequence[ModelLoad], now: float, decision: Decision) -> None:
    """Unload models that have been idle for long enough."""
    for model in models:
        if model.expires_at <= now:
            decision.unload.append(model.name)
        else:
            decision.decide_at = min(decision.decide_at, model.expires_at)


class _Memory:
    """Gives memory and workers to the models that are waited for, one after the other."""

    def __init__(self, models: Sequence[ModelLoad], memory: int, now: float, decision: Decision) -> None:
        self._models = models
        self._now = now
        self._decision = decision
        present = [model for model in models if model.is_present]
        ending = [model for model in present if model.phase == "stopping" or model.name in decision.unload]
        self._free = memory - sum(model.taken for model in present)  #: now
        self._spare = self._free + sum(model.taken for model in ending)  #: soon, and not promised to a model
        self._present = present
        self._promised: set[str] = set()  #: workers of models that are waited for longer
        self._candidates = [
            model for model in present if model.phase == "serving" and not model.pinned and model not in ending
        ]
        self._loads = sum(model.phase == "starting" for model in present)

    def serve(self, wanted: Sequence[ModelLoad]) -> None:
        """Decide about ``wanted``, the oldest first. Models that have grown beyond the memory are first of all."""
        if self._spare < 0:
            self._take(-self._spare, -math.inf)
        for model in wanted:
            holders = [other for other in self._present if other.workers & model.workers]
            is_free = not holders and not model.workers & self._promised
            self._promised |= model.workers
            self._end([other for other in holders if other in self._candidates], model.oldest)
            if model.need > self._spare:
                self._take(model.need - self._spare, model.oldest)
            if model.need > self._spare:
                # Models that load or are pinned have the rest. A younger model must not take what this one waits for.
                self._spare -= model.need
                continue
            self._spare -= model.need
            if is_free and model.need <= self._free and self._loads < MAX_LOADS:
                self._free -= model.need
                self._loads += 1
                self._decision.load.append(model.name)

    def _take(self, missing: int, since: float) -> None:
        """Have models end that take ``missing`` bytes together, for one that is waited for ``since`` then."""
        self._end(self._choose(missing, since), since)

    def _end(self, victims: Sequence[ModelLoad], since: float) -> None:
        """Have these models end, when all of them can."""
        ready = [model for model in victims if self._ready_at(model, since) <= self._now]
        for model in victims:
            self._candidates.remove(model)
            self._spare += model.taken
            self._decision.wanted.add(model.name)
            if self._turn_ends_at(model, since) <= self._now:
                self._decision.draining.add(model.name)
            else:
                self._decide_at(self._turn_ends_at(model, since))
            if model.is_idle:
                self._decide_at(self._ready_at(model, since))
        if len(ready) == len(victims):
            self._decision.unload += [model.name for model in victims]

    def _choose(self, missing: int, since: float) -> list[ModelLoad]:
        """The models to end: those that are idle for long first, then those that soon are, then those whose turn is
        over. None of them is unneeded.
        """
        chosen: list[ModelLoad] = []
        for model in sorted(self._candidates, key=lambda model: self._order(model, since)):
            if missing <= 0:
                break
            chosen.append(model)
            missing -= model.taken
        if missing > 0:  # A model that loads now has the rest, and will have a turn before it ends.
            return []
        for model in list(chosen):
            if model.taken <= -missing:
                chosen.remove(model)
                missing += model.taken
        return chosen

    def _order(self, model: ModelLoad, since: float) -> tuple[int, float, str]:
        if model.is_idle:
            rank = 0 if self._ready_at(model, since) <= self._now else 1
        else:
            rank = 2 if self._turn_ends_at(model, since) <= self._now else 3
        return rank, model.last_used, model.name

    def _turn_ends_at(self, model: ModelLoad, since: float) -> float:
        return max(model.serving_since, since) + (model.turn_seconds if since > -math.inf else 0.0)

    def _ready_at(self, model: ModelLoad, since: float) -> float:
        """When the model can end; infinite while it has running requests, or requests that begin in its turn."""
        if model.running:
            return math.inf
        ends_at = self._turn_ends_at(model, since)
        return ends_at if model.waiting else min(model.kept_until, ends_at)

    def _decide_at(self, time: float) -> None:
        if time > self._now:
            self._decision.decide_at = min(self._decision.decide_at, time)
