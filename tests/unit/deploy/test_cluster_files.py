"""The cluster's files in ``deploy/``: Ray takes their form, the import path exists, and the arguments can be served."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailrace.cluster.config import parse_config
from tailrace.cluster.deployments.application import build

DEPLOY = Path(__file__).parents[3] / "deploy"


def _serve_config(file: str) -> dict[str, Any]:
    documents = list(yaml.safe_load_all((DEPLOY / file).read_text(encoding="utf-8")))
    for document in documents:
        if document.get("kind") == "RayService":
            found: dict[str, Any] = yaml.safe_load(document["spec"]["serveConfigV2"])
            return found
    whole: dict[str, Any] = documents[0]
    return whole


@pytest.mark.parametrize("file", ["ray-serve.yaml", "kuberay.yaml"])
def test_ray_takes_the_file_and_the_application_is_built_of_it(file: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = _serve_config(file)

    checked = ServeDeploySchema.model_validate(config)

    assert checked.proxy_location.value == "Disabled", "Ray's own proxy would take the port"
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert getattr(import_module(module), name) is build
    assert list(inspect.signature(build).parameters) == ["arguments"], "Serve hands args over as one table"
    assert parse_config(application["args"], file, {}).settings.port == 8000
    assert application["route_prefix"] is None


def test_kuberay_pods_can_hold_a_replica_and_end_after_its_drain() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")))
    (service,) = (each for each in documents if each["kind"] == "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    (model,) = parse_config(_serve_config("kuberay.yaml")["applications"][0]["args"], "kuberay.yaml", {}).models

    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= 145
    (workers,) = cluster["workerGroupSpecs"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["cpu"]) >= (model.replicas.cores or 0)
    assert int(limits["memory"].removesuffix("Gi")) * 2**30 >= (model.replicas.memory_mb or 0) * 1_000_000
    assert workers["maxReplicas"] >= model.replicas.max_replicas


def test_kuberay_service_leads_to_the_head_where_the_ingress_is() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")))
    (service,) = (each for each in documents if each["kind"] == "Service")
    (cluster,) = (each for each in documents if each["kind"] == "RayService")
    head = cluster["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]

    assert service["spec"]["selector"].items() <= head["metadata"]["labels"].items()
    ports = {each["name"]: each["containerPort"] for each in head["spec"]["containers"][0]["ports"]}
    assert ports[service["spec"]["ports"][0]["targetPort"]] == service["spec"]["ports"][0]["port"] == 8000
