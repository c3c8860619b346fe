"""Takes a model that is to be deleted out of service, while the server runs."""

from __future__ import annotations

from pathlib import Path

from tailrace.errors import Forbidden
from tailrace.server.app_state import AppState
from tailrace.server.models.model_service import ModelService


def check_removable(app: AppState, service: ModelService, store: Path) -> None:
    """Raise Forbidden for a served model that can't be deleted. ``store``: the folder whose models clients delete."""
    settings = service.spec.settings
    if not app.loads_on_demand or service is app.models.default or settings.pinned:
        raise Forbidden(f"The model '{service.name}' can't be deleted while it is served.")
    # A file may be a link to one that lies elsewhere: the link is what is deleted.
    path = None if service.path is None else service.path.absolute()
    if path is None or store.absolute() not in path.parents:
        raise Forbidden(f"The model '{service.name}' isn't in tailrace's store; delete it where it is.")
    # A model of the store has a folder of its own, which is deleted whole.
    removed = path.parent if path.parent.parent == store.absolute() else path
    for other in app.models.services:
        needed = (other.spec.path, other.spec.settings.draft_model) if other is not service else ()
        if any(removed in (Path(each).absolute(), *Path(each).absolute().parents) for each in needed if each):
            raise Forbidden(f"The model '{other.name}' needs the file of '{service.name}'; it can't be deleted.")
    if service.running or service.waiting:
        raise Forbidden(f"The model '{service.name}' has requests; delete it when they have ended.")


def withdraw(app: AppState, service: ModelService) -> None:
    """Serve the model no more. Its engines end, and read no file any more that isn't open already."""
    app.retire(service)
    app.gate.unload(service)

    def forget(changed: ModelService) -> None:
        if changed.phase not in ("unloaded", "failed"):
            return
        app.gate.remove(changed)
        app.models.forget(changed)
        # One of the same name may have been pulled meanwhile.
        if app.models.own(changed.name) is None:
            app.hub.remove(changed.engine)
            app.metrics.remove_model(changed.name)

    service.on_change.append(forget)
    forget(service)
