"""A model of several files, served from a hub's cache."""

from __future__ import annotations

from pathlib import Path

import httpx

from model_files import hub_cache, split
from servers import serving
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL


def test_a_set_of_linked_shards_is_served_whichever_is_named(tmp_path: Path) -> None:
    links = hub_cache(tmp_path / "hub", split(locate_model(STARTER_MODEL).path, tmp_path, 3))
    with serving(str(links[1]), "--ctx", "256", "--parallel", "2", "--threads", "1") as server:
        base = f"http://127.0.0.1:{server.port}"
        (served,) = httpx.get(f"{base}/v1/models").json()["data"]
        assert served["id"] == "model"
        (shown,) = httpx.get(f"{base}/api/tags").json()["models"]
        assert shown["size"] == sum(link.stat().st_size for link in links)
        assert shown["details"]["parameter_size"] == "134.52M"
        body = {"model": "model", "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
        reply = httpx.post(f"{base}/v1/completions", json=body, timeout=60).json()
        assert reply["usage"]["completion_tokens"] == 4
