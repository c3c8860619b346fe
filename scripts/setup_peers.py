"""Gets what tests need of llama.cpp's source: ``python3 scripts/setup_peers.py``.

That is its server tests, for ``make test-peers``, and the chat templates of models, for ``make test``. They come from
the source distribution of llama.cpp's binding, of the version that constraints.txt pins, so that they are those of the
llama.cpp that is served with. They are unpacked under ``build/``, which git ignores.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from pathlib import Path

from setup import CONSTRAINTS, PYTHON, ROOT, pinned
from setup_engine import PACKAGE
from setup_pip import SetupError, run_pip
from setup_steps import say

#: Where the unpacked files are, by version.
FOLDER = ROOT / "build" / "peers"
#: The unpacked files: the tests, and the templates that they name.
PARTS = ("tools/server/tests/", "models/templates/")
_VENDORED = "/vendor/llama.cpp/"


def source(version: str) -> Path:
    """llama.cpp's folder with the parts that are needed, for this version of the binding."""
    return FOLDER / f"llama.cpp-{version}"


def unpack(archive: Path, target: Path) -> None:
    """Write the parts of ``archive`` into ``target``, all or none. Raises SetupError when they aren't there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
        fresh = Path(temporary) / "fresh"
        with tarfile.open(archive) as tar:
            for member in tar:
                path = member.name.partition(_VENDORED)[2]
                if not member.isfile() or not path.startswith(PARTS):
                    continue
                where = Path(os.path.normpath(fresh / path))
                if not where.is_relative_to(fresh):
                    raise SetupError(f"{archive.name} has a file outside of its folder: {member.name}")
                where.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None, "a file has a content"
                where.write_bytes(content.read())
        if not (fresh / PARTS[0] / "utils.py").exists():
            raise SetupError(f"llama.cpp's server tests aren't in {archive.name}: they have moved, see {__file__}")
        os.replace(fresh, target)


def fetched() -> Path:
    """llama.cpp's folder with the parts that are needed, which is fetched where it isn't there. Raises SetupError."""
    version = pinned(PACKAGE, CONSTRAINTS.read_text(encoding="utf-8"))
    target = source(version)
    if not target.exists():
        say(f"fetching the source of {PACKAGE} {version}, which has llama.cpp's server tests and templates")
        with tempfile.TemporaryDirectory() as temporary:
            arguments = ["download", "--no-deps", "--no-binary", PACKAGE, "--dest", temporary]
            what = "fetching llama.cpp's source"
            # The Python that runs this may be another checkout's, or one without a virtual environment yet.
            python = PYTHON if PYTHON.exists() else Path(sys.executable)
            run_pip(python, [*arguments, f"{PACKAGE}=={version}"], what, environment=os.environ)
            (archive,) = Path(temporary).glob("*.tar.gz")
            unpack(archive, target)
    return target


def main() -> int:
    """The command; its exit code."""
    try:
        print(fetched() / PARTS[0])
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
