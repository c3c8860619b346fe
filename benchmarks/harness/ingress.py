"""Starts the ingress of a cluster with a static table of replicas, which are servers on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.servers import ServerError
from tailrace.cluster.ingress.orders import AddReplica, IngressStart, Listening, decode_report, encode
from tailrace.loadtest.bench_client import BenchClient
from tailrace.settings import Settings

#: The setting ``cluster_secret`` of the replicas.
SECRET = "secret-of-a-benchmark-s-cluster"
#: Seconds until all replicas are ready at the ingress.
_READY_SECONDS = 60.0


class Ingress(NamedTuple):
    """One that runs."""

    client: BenchClient
    pid: int


@contextlib.contextmanager
def ingress(ports: Sequence[int]) -> Iterator[Ingress]:
    """An ingress in front of the servers on these ports of this machine. Raises ServerError."""
    settings = Settings(host="127.0.0.1", port=0, cluster_secret=SECRET, log_level="error")
    lines = [encode(IngressStart(settings=settings))]
    lines += [encode(AddReplica(f"r{number}", "127.0.0.1", port)) for number, port in enumerate(ports, 1)]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        table = Path(folder) / "table.ndjson"
        table.write_bytes(b"".join(lines))
        command = [sys.executable, "-P", "-m", "tailrace.cluster.ingress.process", str(table)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise ServerError("the ingress has ended; its messages are above")
            report = decode_report(line)
            assert isinstance(report, Listening)
            _wait_until_ready(f"http://127.0.0.1:{report.port}/health", len(ports))
            yield Ingress(BenchClient(f"http://127.0.0.1:{report.port}"), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _wait_until_ready(url: str, replicas: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=5) as got:
            if json.load(got)["replicas_ready"] == replicas:
                return
        time.sleep(0.05)
    raise ServerError(f"the ingress saw fewer than {replicas} ready replicas within {_READY_SECONDS:g} s")
