"""The application that is deployed on the cluster that this process has joined: start, state and end."""

from __future__ import annotations

from ray import serve
from ray.serve.api import RunTarget, run_many

from tailrace.cluster.config import ClusterConfig
from tailrace.cluster.deployments.application import NAME, application
from tailrace.cluster.deployments.directory import DirectoryLost, read_table
from tailrace.cluster.directory_book import Table
from tailrace.cluster.status import ApplicationStatus, ClusterStatus, shortened

#: Serve's words for an application.
_STATUS: dict[str, ApplicationStatus] = {
    "NOT_STARTED": "absent",
    "DEPLOYING": "deploying",
    "RUNNING": "running",
    "UNHEALTHY": "incomplete",
    "DEPLOY_FAILED": "failed",
    "DELETING": "deleting",
}


def deploy(config: ClusterConfig) -> None:
    """Deploy the application, or change it to what the file says now. It goes on after this returns. Raises
    ConfigurationError.
    """
    built = application(config)
    # Serve's own proxy would take requests through Ray.
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING", "enable_access_log": False})
    run_many(
        [RunTarget(built, name=NAME, route_prefix=None)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def read_status() -> ClusterStatus:
    """The application now."""
    found = serve.status().applications.get(NAME)
    if found is None:
        return ClusterStatus(status="absent")
    try:
        table = read_table() or Table(complete=False)
    except DirectoryLost:
        table = Table(complete=False)  # There will be another one soon.
    return ClusterStatus(
        status=_STATUS.get(found.status.value, "running"),
        message=shortened(found.message),
        hindrances={name: shortened(each.message) for name, each in found.deployments.items() if each.message},
        replicas=table.replicas,
        ingresses=table.ingresses,
    )


def remove() -> None:
    """Have all replicas and ingresses drain and end."""
    serve.delete(NAME)


def end_serve() -> None:
    """End Serve's own actors, where it has no other application."""
    if not serve.status().applications.keys() - {NAME}:
        serve.shutdown()  # type: ignore[no-untyped-call]
