"""``tailrace metrics``: the Grafana dashboard and the Prometheus alert rules that come with tailrace."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

import typer

from tailrace.errors import ConfigurationError


def metrics(
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Print a Grafana dashboard (JSON).")] = False,
    rules: Annotated[bool, typer.Option("--rules", help="Print alert rules for Prometheus (YAML).")] = False,
) -> None:
    """Print a dashboard or alert rules for the metrics of `GET /metrics`; `tailrace top` shows a running server."""
    if dashboard == rules:
        raise ConfigurationError("choose one: --dashboard for Grafana, or --rules for Prometheus")
    name = "grafana_dashboard.json" if dashboard else "prometheus_rules.yml"
    typer.echo(resources.files("tailrace.observe").joinpath("monitoring", name).read_text(encoding="utf-8"), nl=False)
