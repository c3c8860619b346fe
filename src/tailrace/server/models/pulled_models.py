"""Serves models that clients have pulled, at once, where the server serves all models of this machine's stores.

A table of the settings file with such a model's name counts from the server's next start on.
"""

from __future__ import annotations

import msgspec
import structlog

from tailrace.errors import ModelError
from tailrace.models.header_cache import HeaderCache
from tailrace.models.model_reference import locate_model
from tailrace.models.reference import Reference, name_key
from tailrace.server.app_state import AppState
from tailrace.serving.memory_share import keep_mb
from tailrace.serving.model_abilities import model_abilities
from tailrace.serving.model_spec import ModelSpec


class PulledModels:
    """See the module."""

    def __init__(self, app: AppState) -> None:
        self._app = app

    def find(self, reference: Reference) -> ModelSpec | None:
        """The pulled model as it is to be served; None where this server doesn't, or where the model can't be. It reads
        the disk.
        """
        settings = self._app.settings
        if not settings.all_models or not self._app.loads_on_demand:
            return None
        log = structlog.get_logger()
        try:
            located = locate_model(str(reference), models_dir=settings.models_dir)
            problem = model_abilities(HeaderCache().summary(located.path)).problem
        except ModelError as error:
            log.warning("a pulled model can't be served", model=str(reference), reason=str(error))
            return None
        if problem is not None:
            log.warning("a pulled model can't be served", model=located.name, reason=problem)
            return None
        own = msgspec.structs.replace(
            settings,
            model=str(reference),
            alias=None,
            aliases=(),
            keep_mb=min(settings.keep_mb, keep_mb(self._app.memory)),
        )
        if located.found is not None:
            own = msgspec.structs.replace(
                own,
                system_prompt=own.system_prompt if own.system_prompt is not None else located.found.system or None,
                sampling={**located.found.parameters, **own.sampling},
            )
        return ModelSpec(name=located.name, path=str(located.path), settings=own)

    def serve(self, spec: ModelSpec) -> None:
        """Serve it from now on. A name or a file that is served already stays as it is."""
        served = self._app.models.services
        if any(name_key(service.name) == name_key(spec.name) or service.spec.path == spec.path for service in served):
            return
        self._app.serve(spec)
        structlog.get_logger().info("a pulled model is served", model=spec.name)
