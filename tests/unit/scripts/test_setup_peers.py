"""Unpacking llama.cpp's server tests: what is wanted, all or none of it, and nothing outside of its folder."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

import setup_peers
from setup_pip import SetupError

TESTS = "llama_cpp_python-1/vendor/llama.cpp/tools/server/tests/"


def archive(folder: Path, *names: str) -> Path:
    """A source distribution with files of these names, each of which holds its own name."""
    path = folder / "source.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return path


def test_what_is_wanted_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_peers, "FOLDER", tmp_path / "peers")
    other = "llama_cpp_python-1/vendor/llama.cpp/tools/server/server.cpp"
    template = "llama_cpp_python-1/vendor/llama.cpp/models/templates/a.jinja"
    target = setup_peers.source("1")
    setup_peers.unpack(archive(tmp_path, TESTS + "utils.py", TESTS + "unit/test_a.py", other, template), target)
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert found == [
        "models/templates/a.jinja",
        "tools/server/tests/unit/test_a.py",
        "tools/server/tests/utils.py",
    ]
    assert (target / "tools/server/tests/utils.py").read_text() == TESTS + "utils.py"


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([TESTS + "unit/test_a.py"], "they have moved"),
        ([TESTS + "utils.py", TESTS + "../../../../../../../evil.py"], "outside of its folder"),
    ],
)
def test_a_wrong_download_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], why: str
) -> None:
    monkeypatch.setattr(setup_peers, "FOLDER", tmp_path / "peers")
    target = setup_peers.source("1")
    with pytest.raises(SetupError, match=why):
        setup_peers.unpack(archive(tmp_path, *names), target)
    assert not target.exists()
    assert not list((tmp_path / "peers").iterdir())
    assert not (tmp_path / "evil.py").exists()
