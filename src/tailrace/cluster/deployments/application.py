"""The Serve application of a cluster's file: a deployment for each model, and one for the ingresses.

``build`` is its import path for Ray's own commands and for KubeRay:
``serve run tailrace.cluster.deployments.application:build config=/path/cluster.toml``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from ray import serve
from ray.serve import Application, Deployment

from tailrace.cluster.config import ClusterConfig, ModelConfig, parse_config, read_config
from tailrace.cluster.deployments.ingress import Ingress
from tailrace.cluster.deployments.replica import Replica
from tailrace.cluster.keys_check import check_keys
from tailrace.cluster.resources import replica_resources
from tailrace.errors import ConfigurationError

#: The application's name where ``tailrace cluster serve`` deploys it.
NAME = "tailrace"
#: The name of the ingresses' deployment.
INGRESS = "ingress"
#: Seconds that an actor may take to end beyond the time for running replies.
_END_SECONDS = 25.0
#: Time for running replies of a replica that goes, where the file sets none. On one machine a user waits for the end.
_DRAIN_SECONDS = 120.0
#: Of every deployment. Serve asks for an actor's health each second, so that another one is started soon.
_COMMON: dict[str, Any] = {
    "health_check_period_s": 1.0,
    "health_check_timeout_s": 10.0,
    "logging_config": {"log_level": "WARNING", "enable_access_log": False},
}


def build(arguments: dict[str, Any]) -> Application:
    """The application for Ray's own commands. ``arguments``: either ``config``, the path of a cluster's file on the
    node that builds it, or the contents of such a file. Raises ConfigurationError.
    """
    if "config" in arguments:
        if others := sorted(arguments.keys() - {"config"}):
            raise ConfigurationError(f"args has config and {others[0]}: write all into the file that config names")
        return application(read_config(Path(str(arguments["config"]))))
    return application(parse_config(arguments, "args"))


def application(config: ClusterConfig) -> Application:
    """The application. Raises ConfigurationError."""
    check_keys(config.settings, sum(model.replicas.max_replicas for model in config.models))
    drain = float(config.server.get("drain_seconds", _DRAIN_SECONDS))
    names = _deployment_names(config)
    replicas = [_replica(config, model, names[model.name], drain) for model in config.models]
    # Without a CPU of its own: it forwards bytes, and all cores are for models.
    actor: dict[str, Any] = {"num_cpus": 0}
    if config.ingresses == 1:
        actor["resources"] = {"node:__internal_head__": 0.001}  # So that clients find it at one address.
    deployment: Deployment = serve.deployment(
        name=INGRESS,
        num_replicas=config.ingresses,
        max_replicas_per_node=1,
        ray_actor_options=actor,
        graceful_shutdown_timeout_s=drain + _END_SECONDS,
        **_COMMON,
    )(Ingress)
    encoded = msgspec.json.encode(msgspec.structs.replace(config, server={**config.server, "drain_seconds": drain}))
    bound: Application = deployment.bind(encoded, *replicas)
    return bound


def _replica(config: ClusterConfig, model: ModelConfig, name: str, drain: float) -> Application:
    resources = replica_resources(config.settings_of(model), model.replicas)
    actor: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    if resources.memory_mb:
        actor["memory"] = resources.memory_mb * 1_000_000
    replicas = model.replicas
    count: dict[str, Any] = {"num_replicas": replicas.min_replicas}
    if not replicas.is_fixed:
        count = {
            "autoscaling_config": {
                "min_replicas": replicas.min_replicas,
                "max_replicas": replicas.max_replicas,
                # The policy has the delays: Serve's count from each controller's start.
                "upscale_delay_s": 0.0,
                "downscale_delay_s": 0.0,
                "policy": {
                    "policy_function": "tailrace.cluster.deployments.scaling_policy:ScalingPolicy",
                    "policy_kwargs": {"model": model.name, "replicas": msgspec.to_builtins(replicas)},
                },
            }
        }
    deployment: Deployment = serve.deployment(
        name=name,
        ray_actor_options=actor,
        graceful_shutdown_timeout_s=drain + _END_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        **count,
        **_COMMON,
    )(Replica)
    bound: Application = deployment.bind(
        msgspec.json.encode(model), msgspec.json.encode(config.server), msgspec.json.encode(resources), drain
    )
    return bound


def _deployment_names(config: ClusterConfig) -> dict[str, str]:
    """A deployment's name for each model: it is part of file names of Ray's logs."""
    names: dict[str, str] = {}
    for model in config.models:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name).strip("-.") or "model"
        taken = {INGRESS, *names.values()}
        names[model.name] = next(
            name for number in range(len(taken) + 1) if (name := f"{plain}-{number}" if number else plain) not in taken
        )
    return names
