"""``tailrace bench`` against real servers: what it prints, and that both sides do the same work."""

from __future__ import annotations

import json
import subprocess
import sys

from servers import fake, serving

BENCH = [sys.executable, "-c", "from tailrace.cli.app import main; main()", "bench"]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=300, check=False)


def test_a_comparison_has_both_sides_the_ratio_and_the_same_text() -> None:
    with serving("--threads", "1") as server:
        url = f"http://127.0.0.1:{server.port}"
        done = _run(url, "--compare", "-n", "1", "--output-tokens", "16", "--turns", "1", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["api"]["tokens"] == result["engine"]["tokens"] == 16
    assert result["same_text"]
    assert result["total_ratio"] == result["api"]["total_rate"] / result["engine"]["total_rate"]


def test_a_table_has_a_row_for_each_number_of_streams() -> None:
    with fake("--ctx", "4096") as server:
        url = f"http://127.0.0.1:{server.port}"
        done = _run(url, "-n", "1", "-n", "3", "--output-tokens", "32", "--turns", "2")
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert "tok/s" in header
    assert [row.split()[:2] for row in rows if row.strip()] == [["1", "API"], ["3", "API"]]


def test_hanging_up_after_the_tokens_wanted_leaves_the_server_free() -> None:
    with fake("--ctx", "100000") as server:
        url = f"http://127.0.0.1:{server.port}"
        options = ("-n", "2", "--prompt-tokens", "400", "--output-tokens", "50", "--max-tokens", "9000", "--turns", "1")
        done = _run(url, *options, "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["tokens"] == 100


def test_no_server_is_one_line() -> None:
    done = _run("http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no server at 127.0.0.1:9")
    assert len(done.stderr.splitlines()) == 1
