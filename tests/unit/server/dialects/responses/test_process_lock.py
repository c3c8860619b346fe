"""The lock that shows whether the process that owns a number still lives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tailrace.server.dialects.responses.process_lock import ProcessLock


def test_a_process_lock_is_held_until_its_process_ends(tmp_path: Path) -> None:
    file = tmp_path / "lease"
    own = ProcessLock(file)
    code = (
        "import sys; from pathlib import Path\n"
        "from tailrace.server.dialects.responses.process_lock import ProcessLock\n"
        f"print(ProcessLock(Path({str(file)!r})).number, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        number = int(other.stdout.readline())
        assert own.held(number)
        assert own.held(own.number)
        other.kill()
        other.wait()
        assert not own.held(number)
    own.close()
