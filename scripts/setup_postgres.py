"""Makes PostgreSQL ready for ``make test``: ``python3 scripts/setup_postgres.py``.

The tests store in a real server what several servers share. Debian's package ``postgresql`` has it. Where it isn't
installed, its files and those of the libraries that it lacks are unpacked into ``.postgresql``: that needs no root, and
starts no service.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setup import ROOT
from setup_pip import SetupError
from setup_steps import say

FOLDER = ROOT / ".postgresql"
PROGRAMS = ("postgres", "initdb")
#: Packages that aren't files to unpack: they make users, services and certificates.
_NOT_NEEDED = re.compile(r"(postgresql|postgresql-common|postgresql-client-common|ssl-cert|.*-l10n)$")
_ADVICE = "Debian, Ubuntu: sudo apt install postgresql. Elsewhere: have postgres and initdb on the path."


def is_ready(search: str | None = None, root: Path = Path("/")) -> bool:
    """Whether both programs are on the path, where Debian has them, or were unpacked before."""
    folders = [folder for top in (root, FOLDER) for folder in top.glob("usr/lib/postgresql/*/bin")]
    return all(shutil.which(name, path=search) for name in PROGRAMS) or any(
        all((folder / name).exists() for name in PROGRAMS) for folder in folders
    )


def main() -> int:
    """The exit status."""
    try:
        if not is_ready():
            unpack()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


def packages() -> list[str]:
    """The package of the server, and those that this machine lacks for it. Raises SetupError."""
    # A simulation needs no root, and lists what an installation would bring.
    done = subprocess.run(
        ["apt-get", "install", "-s", "--no-install-recommends", "postgresql"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    found = re.findall(r"^Inst (\S+)", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        raise SetupError(f"the tests need PostgreSQL, and apt doesn't know it:\n{done.stderr.strip()}\n  {_ADVICE}")
    return [name for name in found if not _NOT_NEEDED.match(name)]


def download(names: list[str], folder: Path) -> str | None:
    """Have apt fetch the packages into the folder; what it says where it can't."""
    done = subprocess.run(
        ["apt-get", "download", "-qq", *names], cwd=folder, capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else done.stderr.strip()


def unpack() -> None:
    """Get Debian's packages and unpack them. Raises SetupError with what to do instead."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SetupError(f"the tests need PostgreSQL, and it isn't there.\n  {_ADVICE}")
    say("getting PostgreSQL, for the tests")
    if os.geteuid() == 0:
        # A new machine has no list of packages.
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        error = download(packages(), folder)
        if error is not None:
            raise SetupError(f"the tests need PostgreSQL, and its packages can't be fetched:\n{error}\n  {_ADVICE}")
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(FOLDER)], check=True)


if __name__ == "__main__":
    sys.exit(main())
