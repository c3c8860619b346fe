"""The modules that processes load at their start."""

from __future__ import annotations

import subprocess
import sys


def test_the_command_and_the_supervisor_load_no_llama_cpp() -> None:
    """It takes time, memory and threads, and the supervisor lives as long as the server."""
    code = "import sys, tailrace.cli.app; sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_and_the_http_process_load_no_libraries_of_pulls() -> None:
    """A pull has a process of its own; the others would pay for what they never use."""
    for module in ("tailrace.cli.app", "tailrace.server.process"):
        code = f"import sys, {module}; sys.exit(bool({{'httpx2', 'huggingface_hub'}} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_http_process_loads_no_numpy() -> None:
    """Its import makes threads, which would not be bound to the CPUs of the plan."""
    code = "import sys, tailrace.server.process; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
