"""The documentation site: ``python scripts/docs.py [build | serve | tables]``; ``make docs`` calls it.

``build`` makes the site in ``site/``, and ends with 1 where a link leads nowhere or a page loads something from another
host. ``serve`` shows it at http://127.0.0.1:8100, and builds it again when a document changes. ``tables`` writes the
parts of the documents that are made from the code.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from docs_links import ROOT, documents
from docs_outside import outside_resources
from docs_pages import stage
from docs_tables import write_tables

SITE = ROOT / "site"
_MKDOCS = (sys.executable, "-m", "mkdocs")
_ADDRESS = "127.0.0.1:8100"
#: The theme's notice about its successor is for maintainers, and stands in pyproject.toml.
_ENVIRONMENT = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}


def build() -> int:
    """Build the site; the exit status."""
    if not staged():
        return 1
    # Quiet, it would count no warnings and so pass with them.
    command = [*_MKDOCS, "build", "--strict"]
    status = subprocess.run(command, cwd=ROOT, env=_ENVIRONMENT, check=False).returncode
    if status == 0 and (outside := outside_resources(SITE)):
        print("\n".join(outside), file=sys.stderr)
        return 1
    return status


def serve() -> int:
    """Show the site until Ctrl-C, and make its pages again when a document has changed; mkdocs' exit status."""
    if not staged():
        return 1
    with subprocess.Popen([*_MKDOCS, "serve", "--dev-addr", _ADDRESS], cwd=ROOT, env=_ENVIRONMENT) as server:
        seen = changed_at()
        try:
            while server.poll() is None:
                time.sleep(1)
                if (now := changed_at()) != seen:
                    seen = now
                    staged()
        except KeyboardInterrupt:
            pass  # mkdocs has got it as well
        return server.wait()


def staged() -> bool:
    """Whether the site's pages could be made; otherwise the reason is on standard error."""
    try:
        stage()
    except ValueError as error:
        print(error, file=sys.stderr)
        return False
    return True


def changed_at() -> int:
    """When a document was changed last, in ns."""
    return max(path.stat().st_mtime_ns for path in documents())


def main(arguments: list[str]) -> int:
    """The command. Returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", default="build", choices=["build", "serve", "tables"])
    what = parser.parse_args(arguments).what
    if what == "tables":
        print("\n".join(f"wrote docs/{name}" for name in write_tables()) or "the documents are as the code is")
        return 0
    if what == "serve":
        return serve()
    status = build()
    if status == 0:
        print(f"the site is in {SITE}: open index.html, or make docs ARGS=serve")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
