"""Which served models are rerankers: by their engines' facts, or by the file's header of one that was never loaded."""

from __future__ import annotations

from tailrace.errors import InvalidRequest
from tailrace.server.models.file_abilities import FileAbilities
from tailrace.server.models.model_directory import ModelDirectory
from tailrace.server.models.model_service import ModelService

#: Rerankers that an error names.
_MAX_LISTED = 8


class ServedRerankers:
    """See the module."""

    def __init__(self, models: ModelDirectory, abilities: FileAbilities) -> None:
        self._models = models
        self._abilities = abilities

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
        await self._abilities.read([service])
        abilities = self._abilities.of(service)
        return abilities is not None and abilities.rerank


def _no_reranker(name: str, others: list[str]) -> InvalidRequest:
    shown = ", ".join(f"'{other}'" for other in others[:_MAX_LISTED])
    more = f" and {len(others) - _MAX_LISTED} more" if len(others) > _MAX_LISTED else ""
    return InvalidRequest(
        f"The model '{name}' isn't a reranker: its file has no classifier of a query with a document (pooling type "
        f"'rank'). {f'Rerankers that are served: {shown}{more}.' if others else 'This server serves no reranker.'}",
        param="model",
    )
