"""litellm's proxy between clients and tailrace: a process of its own, with a model name for each server behind it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from client_matrix import PYTHON_VENV
from peer_process import listening

#: The proxy wants one, and a long one; it guards nothing here.
KEY = "sk-only-for-tests-on-loopback-0123456789"
PATIENCE = 180.0


@contextlib.contextmanager
def litellm_proxy(upstreams: Mapping[str, int]) -> Iterator[int]:
    """The port of a proxy that knows each model of ``upstreams`` at its port, for the time of the block."""
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": "openai/fake",
                "api_base": f"http://127.0.0.1:{port}/v1",
                "api_key": "any",
                "max_retries": 0,
            },
        }
        for name, port in upstreams.items()
    ]
    # An upstream that has refused something is asked again the next time.
    router = {"num_retries": 0, "disable_cooldowns": True}
    config = {"model_list": models, "litellm_settings": {"num_retries": 0}, "router_settings": router}
    with tempfile.TemporaryDirectory(prefix="tailrace-litellm-") as folder:
        # JSON is YAML.
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        command: list[str | Path] = [PYTHON_VENV / "bin" / "litellm", "--config", path]
        environment = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        health = "/health/liveliness"
        with listening("litellm's proxy", command, folder, environment, health=health, patience=PATIENCE) as port:
            yield port
