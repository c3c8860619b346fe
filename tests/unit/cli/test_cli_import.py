"""The modules that processes load at their start."""

from __future__ import annotations

import subprocess
import sys


def test_the_command_and_the_supervisor_load_no_llama_cpp() -> None:
    """It takes time, memory and threads, and the supervisor lives as long as the server."""
    code = "import sys; from tailrace.cli.commands import *; command_line(); sys.exit('llama_cpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_and_the_http_process_load_no_libraries_of_pulls() -> None:
    """A pull has a process of its own; the others would pay for what they never use."""
    for loads in ("from tailrace.cli.commands import *; command_line()", "import tailrace.server.process"):
        code = f"import sys; {loads}; sys.exit(bool({{'httpx2', 'huggingface_hub'}} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_serve_loads_no_other_command_and_no_numpy() -> None:
    """It is the supervisor's process for as long as the server lives."""
    code = (
        "import sys\n"
        "from tailrace.cli import app\n"
        "sys.argv = ['tailrace', 'serve', '--help']\n"
        "try:\n    app.main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'numpy', 'tailrace.cli.bench', 'tailrace.conformance'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--port" in done.stdout


def test_an_unknown_command_is_compared_with_all() -> None:
    code = "from tailrace.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "serv"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'serve'" in done.stderr


def test_the_http_process_loads_no_numpy() -> None:
    """Its import makes threads, which would not be bound to the CPUs of the plan."""
    code = "import sys, tailrace.server.process; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
