"""Time from nothing to the first token: ``python -m benchmarks.first_token --from clone`` or ``--from wheel``.

Everything begins empty: home folder, caches, virtual environment. ``clone`` clones this checkout and runs ``make
serve``; ``wheel`` installs ``dist/tailrace-*.whl`` (``make wheel``) and runs ``tailrace serve``. Downloads come from
the machine's own package index. It prints each part's seconds, and fails where the wheel takes more than its bound.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx

ROOT = Path(__file__).parents[1]
#: Seconds from a wheel to the first token.
WHEEL_BOUND = 60.0
_LISTENS = re.compile(r"tailrace listens on (\S+)")
_STEP = re.compile(r"\[\d+/\d+\] ([^:]+)")


class Part(NamedTuple):
    """A part of the way to the first token."""

    name: str
    seconds: float


class Line(NamedTuple):
    """A line of output, and when it came."""

    second: float
    text: str


def parts_of(start: float, lines: Sequence[Line]) -> list[Part]:
    """The parts that set-up's step lines begin; what comes before them, and between the last one and the server."""
    marks = [(line.second, found[1]) for line in lines if (found := _STEP.match(line.text))]
    ready = [line.second for line in lines if line.text.startswith("setup: ready after")]
    marks += [(second, "server") for second in ready[-1:]]
    if not marks:
        return [Part("server", lines[-1].second - start)]
    ends = [second for second, _ in marks[1:]] + [lines[-1].second]
    parts = [Part("begin", marks[0][0] - start)]
    parts += [Part(name, end - second) for (second, name), end in zip(marks, ends, strict=True)]
    return parts


def read_lines(output: Iterator[str]) -> Iterator[Line]:
    """The output's lines, as they come, which are shown, too."""
    for text in output:
        print(f"    {text}", end="", flush=True)
        yield Line(time.monotonic(), text)


def serve(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[Part]:
    """Start a server with the command, and ask it for a token. Raises RuntimeError where it doesn't come up."""
    start = time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            lines: list[Line] = []
            url = None
            for line in read_lines(server.stdout):
                lines.append(line)
                if found := _LISTENS.search(line.text):
                    url = found[1]
                    break
            if url is None:
                raise RuntimeError(f"{' '.join(command)} ended without a server")
            return [*parts_of(start, lines), Part("first token", first_token(url))]
        finally:
            server.terminate()


def first_token(url: str) -> float:
    """Seconds from a request to the first piece of its reply."""
    body = {"messages": [{"role": "user", "content": "Hello!"}], "stream": True, "max_tokens": 8}
    sent = time.monotonic()
    with (
        httpx.Client(base_url=url, timeout=120.0, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        for line in response.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return time.monotonic() - sent
    raise RuntimeError("the reply has no token")


def timed(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Part:
    """Run a command to its end. Raises CalledProcessError."""
    start = time.monotonic()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return Part(name, time.monotonic() - start)


def from_clone(folder: Path, environment: Mapping[str, str], python: str) -> list[Part]:
    """``git clone`` and ``make serve``."""
    checkout = folder / "tailrace"
    clone = ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(checkout)]
    cloned = timed("git clone", clone, environment)
    return [cloned, *serve(["make", "serve", f"PYTHON={python}", "ARGS=--port 0"], checkout, environment)]


def from_wheel(folder: Path, environment: Mapping[str, str], python: str) -> list[Part]:
    """``pip install`` of the wheel in ``dist/``, and ``tailrace serve``."""
    wheel = max((ROOT / "dist").glob("tailrace-*.whl"), default=None)
    if wheel is None:
        raise RuntimeError("there is no wheel in dist/: run make wheel first")
    bin_folder = folder / "venv" / "bin"
    tailrace = str(bin_folder / "tailrace")
    made = timed("virtual environment", [python, "-m", "venv", str(bin_folder.parent)], environment)
    pip = [str(bin_folder / "pip"), "install", "--quiet", "--no-cache-dir", str(wheel)]
    installed = timed("pip install", pip, environment)
    pulled = timed("starter model", [tailrace, "pull"], environment)
    return [made, installed, pulled, *serve([tailrace, "serve", "--port", "0"], folder, environment)]


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="origin", choices=("clone", "wheel"), required=True)
    parser.add_argument(
        "--python", default=getattr(sys, "_base_executable", sys.executable), help="the machine's Python"
    )
    options = parser.parse_args()
    measure = {"clone": from_clone, "wheel": from_wheel}[options.origin]
    with tempfile.TemporaryDirectory(prefix="first-token-") as name:
        folder = Path(name)
        own = ("PYTHONPATH", "TAILRACE_MODELS", "VIRTUAL_ENV")
        kept = {key: value for key, value in os.environ.items() if key not in own}
        parts = measure(folder, {**kept, "HOME": name, "XDG_CACHE_HOME": f"{name}/cache"}, options.python)
    total = sum(part.seconds for part in parts)
    for part in parts:
        print(f"{part.seconds:8.1f} s  {part.name}")
    print(f"{total:8.1f} s  from a {options.origin} to the first token")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:8.1f} s  of CPU time, which other programs change less")
    return int(options.origin == "wheel" and total > WHEEL_BOUND)


if __name__ == "__main__":
    sys.exit(main())
