"""The server's state, for health checks and load balancers. docs/operations.md has the rules."""

from __future__ import annotations

from tailrace.server.app_state import AppState


def state(app: AppState) -> str:
    """With one model that of its engines. Where models are loaded on demand, the server is ``ok`` while it takes
    requests. It is ``loading`` until the first model is loaded or has failed, and ``stalled`` while all connected
    engines are.
    """
    if app.draining:
        return "draining"
    services = app.models.services
    if not app.loads_on_demand:
        return services[0].engine.state
    connected = [service.engine for service in services if service.engine.is_connected]
    if connected:
        return "ok" if any(engine.replicas_ready for engine in connected) else "stalled"
    begins = not any(service.engine.engine_starts for service in services)
    return "loading" if begins and any(service.phase == "starting" for service in services) else "ok"
