"""The facts of the models on this machine, as ``tailrace list`` and ``tailrace show`` give them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from tailrace.engine.kernels.format_coverage import Coverage, kernel_coverage
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.free_memory import read_memory
from tailrace.machine.memory_fit import Memory, MemoryDemand, fit_to_memory
from tailrace.models.header_cache import HeaderCache
from tailrace.models.model_summary import ModelSummary
from tailrace.models.shards import shard_paths, total_bytes
from tailrace.models.stores.found_model import FoundModel, StoreName
from tailrace.observe.safe_text import one_line
from tailrace.serving.model_abilities import ModelAbilities, model_abilities
from tailrace.serving.model_memory import summary_demand
from tailrace.settings import Settings

#: ``smaller context``: with less context than the model was trained for.
Fit = Literal["yes", "smaller context", "no"]


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model as ``--json`` shows it. ``error`` is set, and most facts are None, when it can't be used."""

    reference: str  #: what to type
    name: str  #: what clients call it
    store: StoreName | None  #: None for a path
    path: Path
    files: int = 1
    bytes: int
    architecture: str | None = None
    title: str | None = None  #: the name in its metadata
    parameters: int | None = None
    quantisation: str | None = None
    context: int | None = None  #: tokens that it was trained for
    chat_template: bool | None = None
    works: ModelAbilities | None = None
    kernels: Coverage | None = None  #: whether tailrace's own kernels compute it here
    kernels_part: float | None = None  #: the part of its weights that they do
    fits: Fit | None = None
    fitting_context: int | None = None  #: tokens of a request that fit into memory
    memory: MemoryDemand | None = None
    repository: str | None = None
    revision: str | None = None
    projector: Path | None = None
    adapters: tuple[Path, ...] = ()
    system: str = ""
    sampling: dict[str, Any] = {}
    licence: str = ""
    notes: tuple[str, ...] = ()
    error: str | None = None


class RowMaker:
    """Makes rows for one machine and one user's settings. ``save`` keeps the headers that were read."""

    def __init__(self, settings: Settings, memory: Memory | None = None) -> None:
        self._settings = settings
        self._memory = read_memory() if memory is None else memory
        self._headers = HeaderCache()

    def rows(self, models: Iterable[FoundModel]) -> list[ModelRow]:
        """A row for each model. One broken file hides no other."""
        rows = [self.row(model) for model in models]
        self._headers.save()
        return rows

    def row(self, model: FoundModel) -> ModelRow:
        """The row of one model."""
        row = ModelRow(
            reference=model.reference,
            name=model.name,
            store=model.store,
            path=model.path,
            files=len(shard_paths(model.path)),
            bytes=model.bytes,
            quantisation=model.quant,
            repository=model.repository,
            revision=model.revision,
            projector=model.projector,
            adapters=model.adapters,
            system=one_line(model.system),
            sampling=model.parameters,
            licence=one_line(model.licence),
            error=model.problem,
        )
        return self._with_header(row, _notes(model)) if model.problem is None else row

    def path_row(self, path: Path, name: str) -> ModelRow:
        """The row of a model that was named by its path."""
        row = ModelRow(
            reference=str(path),
            name=name,
            store=None,
            path=path,
            files=len(shard_paths(path)),
            bytes=total_bytes(path),
        )
        return self._with_header(row, ())

    def summary(self, path: Path) -> ModelSummary:
        """The summary of a model's header. Raises ModelError."""
        return self._headers.summary(path)

    def _with_header(self, row: ModelRow, notes: tuple[str, ...]) -> ModelRow:
        try:
            summary = self._headers.summary(row.path)
        except ModelError as error:
            return msgspec.structs.replace(row, error=str(error))
        facts, works = summary.facts, model_abilities(summary)
        coverage, part = kernel_coverage(summary.matrices, self._settings.kernels)
        demand = summary_demand(summary, row.bytes, self._settings)
        fits, context = self._fit(demand)
        return msgspec.structs.replace(
            row,
            architecture=one_line(facts.architecture),
            title=None if facts.name is None else one_line(facts.name),
            parameters=facts.parameters,
            # The header says the format of most weights; a name may say how they were chosen (UD-Q4_K_XL).
            quantisation=row.quantisation or facts.quantisation,
            context=facts.context,
            chat_template=facts.chat_template,
            works=works,
            kernels=coverage,
            kernels_part=round(part, 3),
            fits=fits,
            fitting_context=context,
            memory=demand,
            notes=notes,
            error=works.problem,
        )

    def _fit(self, demand: MemoryDemand) -> tuple[Fit, int | None]:
        """Whether the model fits into the memory that is free now, and with how many tokens."""
        try:
            settings, _ = fit_to_memory(demand, self._settings, self._memory)
        except ConfigurationError:
            return "no", None
        tokens = settings.ctx or demand.context
        return ("smaller context" if tokens < demand.context and not self._settings.ctx else "yes"), tokens or None


def _notes(model: FoundModel) -> tuple[str, ...]:
    """The parts of a store's model that aren't used here."""
    notes: list[str] = []
    if model.projector is not None:
        notes.append("images and audio aren't read here: its projector isn't used")
    if "template" in model.unused:
        notes.append("Ollama's template, in Go, isn't used: the GGUF file's own is, or --chat-template")
    if "messages" in model.unused:
        notes.append("the messages with which Ollama begins its conversations aren't used")
    return tuple(notes)
