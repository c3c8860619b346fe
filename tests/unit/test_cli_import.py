"""What the command loads before it knows what it is asked for."""

from __future__ import annotations

import subprocess
import sys


def test_the_command_and_the_supervisor_load_no_llama_cpp() -> None:
    """It takes time, memory and threads, and the supervisor lives as long as the server."""
    code = "import sys, tailrace.cli.app; sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
