"""Whether traces and metrics are exported by OpenTelemetry. Nothing of OpenTelemetry is imported unless they are.

``opentelemetry_export`` has the export. OpenTelemetry's own environment variables switch it on as well.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from tailrace.errors import ConfigurationError
from tailrace.observe.request_summary import RequestSummary

#: Variables of OpenTelemetry's specification that name a collector.
_ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_INSTALL = "pip install 'tailrace[otel]'"


class Export(NamedTuple):
    """A running export: takes a request's summary at its end, and sends the rest at the process's end."""

    request_ended: Callable[[RequestSummary], None]
    stop: Callable[[], None]


def check_installed(endpoint: str | None) -> None:
    """Raise ConfigurationError where a collector is set, and the packages for it aren't there."""
    if endpoint is not None and not _is_installed():
        raise ConfigurationError(f"otlp_endpoint needs packages that aren't installed: {_INSTALL}")


def start_export(
    endpoint: str | None, host: str, port: int, environment: Mapping[str, str] = os.environ
) -> Export | None:
    """Begin to export to the collector at ``endpoint``, or to the one that the environment names; None: there is none.

    ``host`` and ``port`` are this server's.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if endpoint is None and not any(environment.get(name) for name in _ENDPOINTS):
        return None
    if not _is_installed():
        # The variables may be set for other programs.
        structlog.get_logger().warning("nothing is exported to OpenTelemetry", reason=f"not installed: {_INSTALL}")
        return None
    from tailrace.observe.opentelemetry_export import OpenTelemetryExport

    export = OpenTelemetryExport(endpoint, host, port)
    return Export(export.request_ended, export.stop)


def _is_installed() -> bool:
    try:
        return all(
            importlib.util.find_spec(name) is not None
            for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        )
    except ModuleNotFoundError:
        return False
