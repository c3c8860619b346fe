"""Whether a model fits into memory with the settings, before anything is loaded. Pure arithmetic over bytes.

What can't fit is refused with the numbers. A context that wasn't set is reduced to what fits. A model that fits only
while nothing else needs the memory is a warning.
"""

from __future__ import annotations

import msgspec

from tailrace.errors import ConfigurationError
from tailrace.machine.plan_wording import memory_size
from tailrace.settings import Settings

#: Part of the free memory that a context may take where none was set. The rest is for estimates that are too small.
_CONTEXT_PART = 0.9
#: The smallest context that is chosen; a conversation needs about this.
_MIN_CONTEXT = 2048
#: Contexts are multiples of this, as the KV cache's cells are.
_CONTEXT_STEP = 256
_ADVICE = "Serve a smaller model or a smaller format of it, or allow more memory"


class MemoryDemand(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of one copy of a model, in bytes."""

    weights: int
    buffers: int  #: of computations, and of the processes themselves
    bytes_per_token: int  #: KV of one token; 0: it isn't known
    context: int  #: tokens that the model was trained for; 0: it isn't known


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that this server may use, in bytes."""

    total: int  #: the machine's, or the control group's limit
    available: int  #: of it, what can be had now; page cache is
    where: str = "this machine"


def fit_to_memory(
    demand: MemoryDemand, settings: Settings, memory: Memory, *, private_copies: int = 0
) -> tuple[Settings, tuple[str, ...]]:
    """The settings with a context that fits, and warnings. Raises ConfigurationError for what can't fit.

    ``private_copies``: copies of the weights in the processes' own memory; 0: the file is mapped. Pages of a mapped
    file can be dropped and read again, so they need not be available now. But every step reads all of them.
    """
    copies = max(1, private_copies)
    weights, buffers = demand.weights * copies, demand.buffers * copies
    each = demand.bytes_per_token * copies
    has = f"{memory.where} has {memory_size(memory.total)}, of which {memory_size(memory.available)} are available"
    parts = f"weights {memory_size(weights)} and buffers {memory_size(buffers)}"
    owned = memory.available - buffers - (weights if private_copies else 0)
    free = min(memory.total - weights - buffers, owned)
    if free < 0:
        raise ConfigurationError(
            f"the model doesn't fit into memory: it takes {memory_size(weights + buffers)} ({parts}), and {has}. "
            f"{_ADVICE}"
        )
    for name in ("kv_tokens", "ctx"):
        tokens: int = getattr(settings, name)
        if tokens * each > free:
            fitting = free // each // _CONTEXT_STEP * _CONTEXT_STEP
            raise ConfigurationError(
                f"{name} is {tokens}, whose KV cache takes {memory_size(tokens * each)} beside {parts}, and {has}: set "
                f"--{name.replace('_', '-')} to {fitting} at most"
                if fitting
                else f"the model doesn't fit into memory: {parts} leave no room for a KV cache, and {has}. {_ADVICE}"
            )
    warnings: list[str] = []
    comfortable = memory.available - weights - buffers
    tokens = settings.ctx or settings.kv_tokens
    if not tokens and each and demand.context:
        tokens = _fitting_context(demand.context, int(_CONTEXT_PART * comfortable) // each, free // each)
        if not tokens:
            raise ConfigurationError(
                f"the model doesn't fit into memory: {parts} leave no room for a context of {_MIN_CONTEXT} tokens, "
                f"whose KV cache takes {memory_size(_MIN_CONTEXT * each)}, and {has}. {_ADVICE}; a "
                "smaller --ctx may do"
            )
        if tokens < demand.context:
            warnings.append(
                f"a request may have {tokens} tokens, not the model's {demand.context}: their KV cache would take "
                f"{memory_size(demand.context * each)} beside {parts}, and {has}. --ctx sets another number"
            )
            settings = msgspec.structs.replace(settings, ctx=tokens)
    if tokens * each > comfortable:
        warnings.append(
            f"memory is tight: weights are read from the disk again while the server runs. The KV cache of {tokens} "
            f"tokens takes {memory_size(tokens * each)} beside {parts}, and {has}"
        )
    return settings, tuple(warnings)


def _fitting_context(trained: int, comfortable: int, possible: int) -> int:
    """Tokens of a context: the trained number, or what fits in comfort, or the smallest if possible; else 0."""
    tokens = min(trained, max(comfortable, _MIN_CONTEXT))
    if tokens < trained:
        tokens = tokens // _CONTEXT_STEP * _CONTEXT_STEP
    return tokens if tokens <= possible else 0
