"""Which served models are rerankers: by their engines' facts, or by the file's header of one that was never loaded."""

from __future__ import annotations

import asyncio

from tailrace.errors import InvalidRequest, ModelError
from tailrace.models.metadata_override import with_overrides
from tailrace.models.shards import read_shards
from tailrace.server.models.model_directory import ModelDirectory
from tailrace.server.models.model_service import ModelService
from tailrace.serving.model_abilities import RANK

#: Rerankers that an error names.
_MAX_LISTED = 8


class ServedRerankers:
    """See the module."""

    def __init__(self, models: ModelDirectory) -> None:
        self._models = models
        self._by_path: dict[str, bool] = {}  #: of models that were never loaded

    async def find(self, name: str | None) -> ModelService:
        """The reranker of this name; None is the first one that the caller may use. Raises ModelNotFound, and
        InvalidRequest for a model that is none.
        """
        service = self._models.resolve(name).service
        if await self._is_reranker(service):
            return service
        others = [other for other in self._models.usable if await self._is_reranker(other)]
        if name is None and others:
            return others[0]
        raise _no_reranker(service.name, [other.name for other in others])

    async def _is_reranker(self, service: ModelService) -> bool:
        if service.info is not None:
            return service.info.rank_score is not None
        if (path := service.spec.path) is None:
            return False
        if path not in self._by_path:
            self._by_path[path] = await asyncio.to_thread(_ranks_by_header, service)
        return self._by_path[path]


def _ranks_by_header(service: ModelService) -> bool:
    assert service.path is not None, "it was looked at"
    try:
        values = with_overrides(read_shards(service.path).values, service.spec.settings.override_kv)
    except ModelError:
        return False  # It can't be loaded either.
    return values.get(f"{values.get('general.architecture')}.pooling_type") == RANK


def _no_reranker(name: str, others: list[str]) -> InvalidRequest:
    shown = ", ".join(f"'{other}'" for other in others[:_MAX_LISTED])
    more = f" and {len(others) - _MAX_LISTED} more" if len(others) > _MAX_LISTED else ""
    return InvalidRequest(
        f"The model '{name}' isn't a reranker: its file has no classifier of a query with a document (pooling type "
        f"'rank'). {f'Rerankers that are served: {shown}{more}.' if others else 'This server serves no reranker.'}",
        param="model",
    )
