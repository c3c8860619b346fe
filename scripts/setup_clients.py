"""Makes the clients ready that ``make test-clients`` starts: ``python3 scripts/setup_clients.py``.

Owns ``.venv-clients``, ``.venv-agents``, ``.venv-aider``, ``.venv-open-webui`` and ``tests/clients/node/node_modules``,
each made from a lock file, and anew when that changes. What it can't install itself (Node.js, Chromium) it looks for,
and says how to get it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from setup import ROOT, check_python
from setup_pip import SetupError, run_pip
from setup_steps import say

CLIENTS = ROOT / "tests" / "clients"
NODE = CLIENTS / "node"
#: Each environment's lock file, and how pip is asked for it. The first lists are complete: nothing has to be resolved.
#: The last needs PyTorch, whose own needs differ from machine to machine.
VENVS = {
    ROOT / ".venv-clients": (CLIENTS / "requirements-python.txt", ["--no-deps"]),
    ROOT / ".venv-agents": (CLIENTS / "requirements-agents.txt", ["--no-deps"]),
    ROOT / ".venv-aider": (CLIENTS / "requirements-aider.txt", ["--no-deps"]),
    ROOT / ".venv-open-webui": (CLIENTS / "requirements-open-webui.txt", []),
}
OLDEST_NODE = 20
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def check_node(search: str | None = None) -> None:
    """Raise SetupError unless a Node.js that is new enough is on the path, with npm."""
    node, npm = shutil.which("node", path=search), shutil.which("npm", path=search)
    advice = f"Install Node.js {OLDEST_NODE} or newer with npm (Debian, Ubuntu: sudo apt install nodejs npm)."
    if node is None or npm is None:
        raise SetupError(f"the JavaScript clients need {'npm' if node else 'Node.js'}, and it isn't there. {advice}")
    shown = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = shown.removeprefix("v").split(".")[0]
    if not major.isdigit() or int(major) < OLDEST_NODE:
        raise SetupError(
            f"the JavaScript clients need Node.js {OLDEST_NODE}, and {node} is {shown or 'broken'}. {advice}"
        )


def check_chromium(search: str | None = None) -> None:
    """Raise SetupError unless there is a Chromium."""
    if not any(shutil.which(name, path=search) for name in CHROMIUMS):
        raise SetupError(
            "Open WebUI is tested in Chromium, and there is none: none of "
            + ", ".join(CHROMIUMS)
            + " is on the path.\n  Debian, Ubuntu: sudo apt install chromium"
        )


def key(lock: Path) -> str:
    """Changes when the environment of the lock file has to be rebuilt."""
    return hashlib.sha256(lock.read_bytes() + f"{platform.python_version()} in {ROOT}".encode()).hexdigest()


def is_current(stamp: Path, lock: Path) -> bool:
    """Whether the stamp says that the lock file was installed as it is."""
    return stamp.exists() and stamp.read_text(encoding="utf-8") == key(lock)


def install_venv(venv: Path, lock: Path, options: Sequence[str], environment: Mapping[str, str]) -> None:
    """A virtual environment with what the lock file lists. What is imported is compiled then: most of it never is."""
    stamp = venv / "lock"
    if is_current(stamp, lock):
        return
    say(f"making {venv.name} from {lock.name}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    arguments = ["install", "--no-compile", *options, "-r", str(lock)]
    run_pip(venv / "bin" / "python", arguments, f"installing {lock.name}", environment=environment)
    stamp.write_text(key(lock), encoding="utf-8")


def install_node(environment: Mapping[str, str]) -> None:
    """The JavaScript clients, as locked."""
    lock = NODE / "package-lock.json"
    stamp = NODE / "node_modules" / "lock"
    if is_current(stamp, lock):
        return
    say("installing the JavaScript clients")
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--no-update-notifier"],
        cwd=NODE,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SetupError(f"npm ci in {NODE} failed:\n{done.stdout}{done.stderr}")
    stamp.write_text(key(lock), encoding="utf-8")


def main() -> int:
    """The command; its exit code."""
    try:
        check_python(sys.version_info[:3])
        check_node()
        check_chromium()
        for venv, (lock, options) in VENVS.items():
            install_venv(venv, lock, options, os.environ)
        install_node(os.environ)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
