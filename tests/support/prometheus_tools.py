"""Prometheus and promtool for tests: where they are, and a server that reads its targets once a second."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from servers import wait_for

ROOT = Path(__file__).parents[2]


def program(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``."""
    unpacked = ROOT / ".prometheus" / "usr" / "bin" / name
    found = shutil.which(name) or (str(unpacked) if unpacked.exists() else None)
    assert found, f"{name} is missing: python3 scripts/setup_prometheus.py, or Debian's package prometheus"
    return found


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """The samples of an expression now."""
        found: list[Any] = self.get("query", query=expression)["result"]
        return found


@contextlib.contextmanager
def prometheus(targets: Sequence[int], rules: str) -> Iterator[Prometheus]:
    """A Prometheus with these rules that reads the metrics of the servers on these ports."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as name:
        free.bind(("127.0.0.1", 0))
        port, folder = free.getsockname()[1], Path(name)
        (folder / "rules.yml").write_text(rules, encoding="utf-8")
        scrape = {"job_name": "tailrace", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}]}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        free.close()
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ]
        )
        try:
            running = Prometheus(port)

            def answers() -> bool:
                assert process.poll() is None, "Prometheus has ended"
                with contextlib.suppress(OSError):
                    return bool(running.get("status/buildinfo"))
                return False

            wait_for("Prometheus", answers)
            yield running
        finally:
            process.terminate()
            process.wait(30)
