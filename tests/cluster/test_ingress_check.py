"""``tailrace check`` grades a server through an ingress as the server itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ingress_process import SECRET, ingress
from servers import fake


def test_every_wire_rule_holds_through_the_ingress() -> None:
    with fake("--ctx", "100000", "--parallel", "8", cluster_secret=SECRET) as server, ingress([server.port]) as process:
        command = [str(Path(sys.executable).with_name("tailrace")), "check", f"http://127.0.0.1:{process.port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
