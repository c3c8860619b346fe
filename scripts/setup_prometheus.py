"""Makes Prometheus and promtool ready for ``make test``: ``python3 scripts/setup_prometheus.py``.

The tests have Prometheus read a real server's metrics, so that the dashboard and the alert rules are proven. Debian's
package ``prometheus`` has both programs. Where they aren't on the path, its files are unpacked into ``.prometheus``:
that needs no root, and starts no service.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setup import ROOT
from setup_pip import SetupError
from setup_steps import say

FOLDER = ROOT / ".prometheus"
PROGRAMS = ("prometheus", "promtool")


def is_ready(search: str | None = None) -> bool:
    """Whether both programs are on the path, or were unpacked before."""
    return all(shutil.which(name, path=search) or (FOLDER / "usr" / "bin" / name).exists() for name in PROGRAMS)


def main() -> int:
    """The exit status."""
    try:
        if not is_ready():
            unpack()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


def download(folder: Path) -> str | None:
    """Have apt fetch the package into the folder; what it says where it can't."""
    command = ["apt-get", "download", "-qq", "prometheus"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()


def unpack() -> None:
    """Get Debian's package and unpack it. Raises SetupError with what to do instead."""
    advice = "Debian, Ubuntu: sudo apt install prometheus. Elsewhere: have prometheus and promtool on the path."
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SetupError(f"the tests need Prometheus, and it isn't there.\n  {advice}")
    say("getting Prometheus, for the tests")
    with tempfile.TemporaryDirectory() as folder:
        error = download(Path(folder))
        if error is not None and os.geteuid() == 0:
            # A new machine has no list of packages.
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
            error = download(Path(folder))
        if error is not None:
            raise SetupError(f"the tests need Prometheus, and its package can't be fetched:\n{error}\n  {advice}")
        found = sorted(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(found[0]), str(FOLDER)], check=True)


if __name__ == "__main__":
    sys.exit(main())
