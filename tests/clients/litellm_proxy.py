"""litellm's proxy between clients and tailrace: a process of its own, with a model name for each server behind it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from client_matrix import PYTHON_VENV
from servers import wait_for

#: The proxy wants one, and a long one; it guards nothing here.
KEY = "sk-only-for-tests-on-loopback-0123456789"
PATIENCE = 180.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
        port = free_port()
        environment = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
        environment |= {"HOME": folder, "LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [PYTHON_VENV / "bin" / "litellm", "--config", path, "--host", "127.0.0.1", "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        try:
            wait_for("litellm's proxy to listen", lambda: _listens(process, port, log_path), PATIENCE)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _listens(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, f"litellm's proxy has ended:\n{log.read_text(encoding='utf-8')[-4000:]}"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
