"""What children write past the log: it is logged with their name, and never waits for a newline."""

from __future__ import annotations

import subprocess
import sys

import structlog

from servers import wait_for
from tailrace.supervisor.stray_output import StrayOutput


def test_output_is_logged_with_its_process_s_name() -> None:
    stray = StrayOutput()
    with structlog.testing.capture_logs() as logs:
        for name, text in (
            ("engine", "GGML_ASSERT(x) failed\\n12:00:00 [info] forged"),
            ("http", "\\x1b[2Jno newline"),
        ):
            program = f"import sys; sys.stderr.write('{text}')"
            process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
            assert process.stderr is not None
            stray.read(name, process.stderr)
            process.wait(30)
        wait_for("both", lambda: len(logs) == 2, 30)
    texts = {entry["by"]: entry["exception"] for entry in logs}
    assert texts["engine"] == "GGML_ASSERT(x) failed\n12:00:00 [info] forged"
    assert texts["http"] == "\\x1b[2Jno newline"


def test_a_child_that_writes_much_is_not_held_up() -> None:
    stray = StrayOutput()
    with structlog.testing.capture_logs() as logs:
        program = "import sys; sys.stderr.write('x' * 3_000_000)"
        process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
        assert process.stderr is not None
        stray.read("engine", process.stderr)
        assert process.wait(60) == 0
        wait_for("an event", lambda: bool(logs), 30)
    assert len(logs[0]["exception"]) <= 32_000
