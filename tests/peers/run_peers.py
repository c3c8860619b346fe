"""Runs llama.cpp's server tests against tailrace: ``python tests/peers/run_peers.py [pytest's arguments]``.

``make test-peers`` does, after it has got them (``scripts/setup_peers.py``). Names of tests are as below their folder:
``unit/test_basic.py::test_server_props``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main(arguments: list[str]) -> int:
    """pytest's exit code."""
    shown = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "setup_peers.py")], stdout=subprocess.PIPE, text=True, check=False
    )
    if shown.returncode:
        return shown.returncode
    folder = Path(shown.stdout.splitlines()[-1])
    search = os.pathsep.join([str(HERE), str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "peer_plugin",
        "-p",
        "no:anyio",
        "-p",
        "no:cacheprovider",
        "-q",
        "--show-capture=no",
    ]
    command += ["--rootdir", str(folder), "-c", str(folder / "pytest.ini"), *(arguments or ["unit"])]
    return subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": search}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
