"""The cluster's file: what it means, and that wrong values are refused with the parameter's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailrace.cluster.config import Replicas, parse_config, read_config
from tailrace.errors import ConfigurationError

_MODEL = {"path": "/models/a.gguf"}


def _parse(table: dict[str, Any], **environment: str) -> Any:
    return parse_config(table, "cluster.toml", environment)


def test_file_is_a_settings_file_with_replicas(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        'host = "0.0.0.0"\nport = 9000\ningresses = 2\nqueue_requests = 7\nctx = 2048\n'
        '[models.small]\npath = "hf:org/small:Q4_K_M"\nreplicas = 3\ncores = 4\n'
        '[models.large]\npath = "/models/large.gguf"\nmin_replicas = 0\nmax_replicas = 2\nctx = 8192\n'
        "idle_seconds = 60\ngpus = 0.5\nmemory_mb = 9000\n",
        encoding="utf-8",
    )

    config = read_config(file, {})

    assert (config.settings.host, config.settings.port, config.ingresses) == ("0.0.0.0", 9000, 2)
    small, large = config.models
    assert (small.name, small.section) == ("small", {"model": "hf:org/small:Q4_K_M"})
    assert small.replicas == Replicas(min_replicas=3, max_replicas=3, cores=4)
    assert large.replicas == Replicas(min_replicas=0, max_replicas=2, idle_seconds=60, gpus=0.5, memory_mb=9000)
    assert (config.settings_of(small).ctx, config.settings_of(large).ctx) == (2048, 8192)
    assert config.settings_of(large).queue_requests == 7


def test_model_has_one_replica_where_nothing_is_said() -> None:
    assert _parse({"models": {"a": _MODEL}}).models[0].replicas == Replicas(min_replicas=1, max_replicas=1)


def test_min_replicas_alone_raise_the_maximum() -> None:
    counts = [_parse({"models": {"a": {**_MODEL, "min_replicas": least}}}).models[0].replicas for least in (0, 1, 4)]
    assert [(each.min_replicas, each.max_replicas) for each in counts] == [(0, 1), (1, 1), (4, 4)]


def test_secrets_may_come_from_the_environment() -> None:
    config = _parse({"models": {"a": _MODEL}}, TAILRACE_API_KEY="hidden", TAILRACE_PORT="1")

    assert config.settings.api_key == "hidden"
    assert config.settings.port == 8000, "the environment of one machine must not change a cluster's file"


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({}, "no model"),
        ({"models": {}}, "no model"),
        ({"models": {"a": 3}}, "models.a"),
        ({"models": {"a": {}}}, "path"),
        ({"models": {"a": {**_MODEL, "replicas": 0}}}, "replicas"),
        ({"models": {"a": {**_MODEL, "replicas": "many"}}}, "replicas"),
        ({"models": {"a": {**_MODEL, "replicas": 2, "max_replicas": 3}}}, "max_replicas"),
        ({"models": {"a": {**_MODEL, "min_replicas": 3, "max_replicas": 2}}}, "max_replicas"),
        ({"models": {"a": {**_MODEL, "min_replicas": -1}}}, "min_replicas"),
        ({"models": {"a": {**_MODEL, "max_replicas": 0}}}, "max_replicas"),
        ({"models": {"a": {**_MODEL, "cores": 0}}}, "cores"),
        ({"models": {"a": {**_MODEL, "memory_mb": "4 GB"}}}, "memory_mb"),
        ({"models": {"a": {**_MODEL, "gpus": -1}}}, "gpus"),
        ({"models": {"a": {**_MODEL, "coers": 2}}}, "coers"),
        ({"models": {"a": {**_MODEL, "ctx": "long"}}}, "ctx"),
        ({"models": {"a": {**_MODEL, "alias": "b"}}}, "alias"),
        ({"models": {"a": _MODEL}, "model": "b"}, "model"),
        ({"models": {"a": _MODEL}, "models_mb": 5}, "memory_mb"),
        ({"models": {"a": _MODEL}, "replicas": 5}, "replicas"),
        ({"models": {"a": _MODEL}, "port": 99_999}, "port"),
        ({"models": {"a": _MODEL}, "hots": "x"}, "hots"),
        ({"models": {"a": _MODEL}, "ingresses": 0}, "ingresses"),
    ],
)
def test_wrong_value_is_refused_with_its_name(table: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        _parse(table)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.toml"):
        read_config(tmp_path / "absent.toml")
